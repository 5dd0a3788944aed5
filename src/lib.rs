//! The node: puts the parts together, nothing else.
