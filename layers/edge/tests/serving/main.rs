//! An edge on real sockets, between real clients and real targets.

mod abuse;
mod balancing;
mod failover;
mod lab;
mod lifecycle;
mod ports;
mod proxying;
mod tls;
