//! Sources beside the nodes: logs are followed, read into typed records, matched against the rules, and what is found goes the way of every
//! node's findings.

pub mod read;
