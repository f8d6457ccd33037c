//! Tests of the run against a simulated node. The simulation is for tests only.

mod clock;
mod crash;
mod life;
mod rollback;
mod sim;
mod watch;
