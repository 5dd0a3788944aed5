//! Node identity and the mTLS streams between nodes.
