//! The one door to openraft.
