//! The two ends of a link between an agent and its controller: within one process, or gRPC with mutual TLS.
