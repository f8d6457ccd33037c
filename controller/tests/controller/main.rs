//! The controller, with nodes whose world is a file.

#[cfg(test)]
mod adaptive;
#[cfg(test)]
mod again;
#[cfg(test)]
mod aliases;
#[cfg(test)]
mod clock;
#[cfg(test)]
mod correlate;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod gate;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod promotion;
#[cfg(test)]
mod scans;
#[cfg(test)]
mod socket;
#[cfg(test)]
mod split;
#[cfg(test)]
mod storage;
#[cfg(test)]
mod support;
#[cfg(test)]
mod told;
#[cfg(test)]
mod traced;
#[cfg(test)]
mod whole;
