//! The one door to warp: REST over the cluster.
