//! Clusters of real processes, faults and checks.
