//! The client and the server side on real sockets, with each other and with peers that nobody here wrote.

#[cfg(test)]
mod client_and_server;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod support;
