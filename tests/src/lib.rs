//! Support for whole-system tests: starts real servers and ends them with the test.

pub mod chromium;
pub mod forwarder;
pub mod haproxy;
pub mod helm;
pub mod http;
pub mod kubernetes;
pub mod ledger;
pub mod lua;
pub mod name_server;
pub mod operator;
pub mod pcap;
pub mod peer;
pub mod program;
pub mod proxy;
pub mod redis;
pub mod rehearsal;
pub mod replica;
pub mod samba;
pub mod stand_in;
pub mod story;
pub mod tripling;
