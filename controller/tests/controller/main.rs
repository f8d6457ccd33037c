//! The controller, with nodes whose world is a file.

mod crash;
mod lab;
mod storage;
mod support;
mod whole;
