//! The one door to disk and databases.
