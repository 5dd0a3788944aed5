//! Authoritative DNS from the committed state.
