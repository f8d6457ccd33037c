//! Random rules and events: what is printed is read again as it was, nothing that is read panics, and the interpreter agrees with an
//! engine that others wrote.

mod differences;
mod differential;
mod encoded;
mod generate;
mod hostile;
mod print;
mod round_trip;
