//! Tests of the run against a simulated node. The simulation is for tests only.

mod crash;
mod life;
mod rollback;
mod sim;
