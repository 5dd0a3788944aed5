//! The public side of a node: TLS, routing, proxying.
