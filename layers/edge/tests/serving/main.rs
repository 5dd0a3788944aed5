//! An edge on real sockets, between real clients and real targets.

mod abuse;
mod failover;
mod lab;
mod lifecycle;
mod proxying;
mod tls;
