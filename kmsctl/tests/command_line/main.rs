//! The commands as people type them, alone and around a `kmsctl up`.

#![cfg(test)]

mod commands;
mod ends;
mod licensed_hosts;
mod load;
mod readme;
mod running;
mod up;
