//! Hemostat's controller: ingest, incidents, gate, runs, journal, audit and the control socket.

pub mod audit;
