//! Connections of those who have shown no certificate: how many there may be, of all and of one address, and how long each may take. Whoever
//! can reach the port can open them, so that without a bound one machine could keep every agent out (I11).

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use model::machine_of;

/// Who is here.
#[derive(Debug)]
pub(crate) struct Strangers {
    /// At once: of all, and of one address.
    most: (usize, usize),
    here: Mutex<HashMap<IpAddr, usize>>,
}

/// A place among them, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    among: Arc<Strangers>,
    from: IpAddr,
}

impl Strangers {
    pub(crate) fn new(most: (usize, usize)) -> Arc<Self> {
        Arc::new(Self { most, here: Mutex::default() })
    }

    /// A place for one from `address`; why there is none, in a person's words.
    pub(crate) fn place(self: &Arc<Self>, address: IpAddr) -> Result<Place, String> {
        let from = machine_of(address);
        let mut here = self.lock();
        let (most, most_of_one) = self.most;
        if here.values().sum::<usize>() >= most {
            return Err(format!("{most} connections have shown no certificate, the limit"));
        }
        let of_it = here.entry(from).or_default();
        if *of_it >= most_of_one {
            return Err(format!("{most_of_one} connections from there have shown no certificate, the limit"));
        }
        *of_it += 1;
        Ok(Place { among: Arc::clone(self), from })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut here = self.among.lock();
        if let Some(of_it) = here.get_mut(&self.from) {
            *of_it -= 1;
            if *of_it == 0 {
                here.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i11_places_are_bounded_for_all_and_for_each_address_and_come_back() {
        let all = Strangers::new((3, 2));
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = all.place(at("10.0.0.1")).unwrap();
        let _second = all.place(at("::ffff:10.0.0.1")).unwrap();
        assert!(all.place(at("10.0.0.1")).unwrap_err().contains("from there"));
        let third = all.place(at("fd00::1")).unwrap();
        assert!(all.place(at("fd00::2")).unwrap_err().starts_with("3 connections"));
        drop(third);
        let _one = all.place(at("fd00::2")).unwrap();
        drop(first);
        let _again = all.place(at("10.0.0.1")).unwrap();
        assert_eq!(all.lock().len(), 2);
    }
}
