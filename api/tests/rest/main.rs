//! The REST API over real sockets, on a real one-node cluster.

mod access;
mod catalog;
mod certificates;
mod cluster;
mod fabric;
mod no_backups;
mod no_dns;
mod no_keyring;
mod one_node;
mod protocol;
mod server;
mod traffic;
mod unsealed;
mod why;

use server::Server;
