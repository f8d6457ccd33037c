//! Connections at once: how many there may be, and who makes room.
//!
//! Whoever can reach the port can open connections and be slow, from as many addresses as he has. So a connection only keeps its seat as long as
//! nobody needs it, but for a request whose sender is known: when all seats are taken, the oldest other one of the address that has most of
//! them makes room. Who has few, as an API server, is the last to be asked; of those who have as many, who has not said lately who he is, and
//! of these whoever came first: whoever has a connection each from ever so many addresses pushes out his own.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use model::machine_of;
use tokio_util::sync::CancellationToken;

/// Connections, and connections of one address.
pub(super) const MOST: usize = 64;
pub(super) const MOST_OF_ONE: usize = 16;

/// Addresses of which it is remembered that somebody known spoke from there: whoever was silent for longest is forgotten.
const MOST_REMEMBERED: usize = 1024;

/// How many connections of an address from which somebody known spoke count as one of another.
const TRUST: usize = 4;

/// Who is here.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// In the order in which they came.
    taken: BTreeMap<u64, Taken>,
    /// From where somebody known spoke lately, and the how manieth time of all that was.
    well: HashMap<IpAddr, u64>,
    spoken: u64,
}

#[derive(Debug)]
struct Taken {
    from: IpAddr,
    /// Whether it is in the middle of a request of somebody who is known.
    engaged: bool,
    /// Whether it ever was.
    known: bool,
    /// What it holds of the room for bodies, or waits for, in KiB.
    room: u64,
    out: CancellationToken,
}

/// A connection's seat, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    number: u64,
    /// Somebody else needs it: the connection is to be closed.
    pub(super) out: CancellationToken,
}

/// As long as it lives its seat is kept; or its body's share of the room is counted.
#[derive(Debug)]
pub(super) struct Held<'a>(&'a Seat, What);

#[derive(Debug, Clone, Copy)]
enum What {
    Engaged,
    Room,
}

impl Seats {
    /// A seat for a connection from `peer`, and who made room for it, if somebody had to; or why there is none.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr) -> Result<(Seat, Option<IpAddr>), String> {
        let from = machine_of(peer);
        let mut inner = self.lock();
        let own = inner.taken.values().filter(|one| one.from == from).count();
        let mut gone = None;
        if own >= MOST_OF_ONE || inner.taken.len() >= MOST {
            gone = inner.make_room(from, own >= MOST_OF_ONE);
            if gone.is_none() {
                return Err(format!(
                    "{peer} has {own} connections, at most {MOST_OF_ONE} of one and {MOST} in all, and none of them can be closed"
                ));
            }
        }
        inner.next += 1;
        let (number, out) = (inner.next, CancellationToken::new());
        inner.taken.insert(number, Taken { from, engaged: false, known: false, room: 0, out: out.clone() });
        Ok((Seat { seats: Arc::clone(self), number, out }, gone))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Its sender is known: it is not asked to make room.
    pub(super) fn engage(&self) -> Held<'_> {
        let mut inner = self.seats.lock();
        if let Some(one) = inner.taken.get_mut(&self.number) {
            (one.engaged, one.known) = (true, true);
            let from = one.from;
            inner.remember(from);
        }
        drop(inner);
        Held(self, What::Engaged)
    }

    /// It needs so much of the room for bodies, in KiB.
    pub(super) fn needs(&self, room: u64) -> Held<'_> {
        self.change(|one| one.room = room);
        Held(self, What::Room)
    }

    /// Closes the connection that holds most of the room for bodies, of the address that holds most of it, if nobody knows its sender and
    /// that address holds more than ours. Whose it was.
    pub(super) fn ask_for_room(&self) -> Option<IpAddr> {
        let mut inner = self.seats.lock();
        let own = inner.taken.get(&self.number)?.from;
        let mut held: HashMap<IpAddr, u64> = HashMap::new();
        for one in inner.taken.values().filter(|one| !one.engaged) {
            *held.entry(one.from).or_default() += one.room;
        }
        let ours = held.get(&own).copied().unwrap_or(0);
        let (most, _) = held.into_iter().filter(|(_, room)| *room > ours).max_by_key(|(_, room)| *room)?;
        let of_it = inner.taken.iter().filter(|(_, one)| one.from == most && !one.engaged);
        let number = of_it.max_by_key(|(_, one)| one.room).map(|(number, _)| *number)?;
        inner.close(number)
    }

    fn change(&self, change: impl FnOnce(&mut Taken)) {
        if let Some(one) = self.seats.lock().taken.get_mut(&self.number) {
            change(one);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().taken.remove(&self.number);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.change(|one| match self.1 {
            What::Engaged => one.engaged = false,
            What::Room => one.room = 0,
        });
    }
}

impl Inner {
    /// Somebody known spoke from there.
    fn remember(&mut self, from: IpAddr) {
        self.spoken += 1;
        self.well.insert(from, self.spoken);
        if self.well.len() > MOST_REMEMBERED
            && let Some(silent) = self.well.iter().min_by_key(|(_, when)| **when).map(|(from, _)| *from)
        {
            self.well.remove(&silent);
        }
    }

    /// Closes one that nobody knows the sender of: of `own` only, or of whoever has most.
    fn make_room(&mut self, own: IpAddr, of_own: bool) -> Option<IpAddr> {
        // How many, and the oldest.
        let mut slack: HashMap<IpAddr, (usize, u64)> = HashMap::new();
        for (number, one) in &self.taken {
            if !one.engaged && (!of_own || one.from == own) {
                slack.entry(one.from).or_insert((0, *number)).0 += 1;
            }
        }
        let rank = |from: &IpAddr, (count, oldest): (usize, u64)| match self.well.contains_key(from) {
            true => (count, false, Reverse(oldest)),
            false => (count * TRUST, true, Reverse(oldest)),
        };
        let (most, _) = slack.into_iter().max_by_key(|(from, has)| rank(from, *has))?;
        let of_it = self.taken.iter().filter(|(_, one)| one.from == most && !one.engaged);
        let number = of_it.min_by_key(|(number, one)| (one.known, **number)).map(|(number, _)| *number)?;
        self.close(number)
    }

    fn close(&mut self, number: u64) -> Option<IpAddr> {
        let one = self.taken.remove(&number)?;
        one.out.cancel();
        Some(one.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn i11_who_has_most_makes_room_and_a_known_sender_is_left_alone() {
        let seats = Arc::new(Seats::default());
        let (server, none) = seats.take(at(1)).unwrap();
        assert_eq!(none, None);
        let slow: Vec<Seat> = (0..63_u8).map(|n| seats.take(at(2 + n % 5)).unwrap().0).collect();
        // All are taken. Those of 2, 3 and 4 have 13 each.
        let (another, gone) = seats.take(at(9)).unwrap();
        assert!(gone.is_some_and(|gone| [at(2), at(3), at(4)].contains(&gone)), "{gone:?}");
        assert_eq!(slow.iter().filter(|seat| seat.out.is_cancelled()).count(), 1);
        assert!(!server.out.is_cancelled() && !another.out.is_cancelled());
        // Where all senders are known, nobody is closed.
        let known: Vec<_> = slow.iter().chain([&server, &another]).map(Seat::engage).collect();
        assert!(seats.take(at(9)).unwrap_err().contains("at most"));
        drop(known);
        assert!(seats.take(at(9)).is_ok());
        assert!(seats.lock().taken.len() <= MOST);
        drop((slow, server, another));
        assert_eq!(seats.lock().taken.len(), 0);
    }

    #[test]
    fn i11_one_address_has_its_bound_and_its_own_oldest_makes_room() {
        let seats = Arc::new(Seats::default());
        let text = |last: u16| format!("fd00::{last:x}").parse::<IpAddr>().unwrap();
        let own: Vec<Seat> = (0..16).map(|n| seats.take(text(n)).unwrap().0).collect();
        let kept = own[0].engage();
        let (_newest, gone) = seats.take(text(99)).unwrap();
        assert_eq!(gone, Some(machine_of(text(0))), "the half that it cannot choose");
        assert!(!own[0].out.is_cancelled() && own[1].out.is_cancelled());
        drop(kept);
    }

    #[test]
    fn i11_one_connection_each_from_ever_so_many_addresses_pushes_out_no_server() {
        let seats = Arc::new(Seats::default());
        let far = |n: u16| IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
        let mut slow: Vec<Seat> = (0..200).map(|n| seats.take(far(n)).unwrap().0).collect();
        // In its handshake: whoever came before it goes first.
        let (server, gone) = seats.take(at(1)).unwrap();
        assert!(gone.is_some());
        slow.extend((200..263).map(|n| seats.take(far(n)).unwrap().0));
        assert!(!server.out.is_cancelled(), "63 came after it, and all others were older");
        assert_eq!(seats.lock().taken.values().filter(|one| one.from == at(1)).count(), 1);
        // Once it was known it stays, with more than one connection and whoever comes.
        drop(server.engage());
        let more: Vec<Seat> = (0..3).map(|_| seats.take(at(1)).unwrap().0).collect();
        for n in 1000..3000 {
            slow.push(seats.take(far(n)).unwrap().0);
        }
        assert!(!server.out.is_cancelled() && more.iter().all(|seat| !seat.out.is_cancelled()));
        drop((server, more));
        let (again, _) = seats.take(at(1)).unwrap();
        slow.extend((3000..5000).map(|n| seats.take(far(n)).unwrap().0));
        assert!(!again.out.is_cancelled(), "it comes back and is preferred in its handshake");
        assert!(seats.lock().taken.len() <= MOST);
    }

    #[test]
    fn i11_who_is_known_has_no_more_than_his_share_and_few_are_remembered() {
        let seats = Arc::new(Seats::default());
        let known: Vec<Seat> = (0..64_u8).map(|n| seats.take(at(1 + n / 16)).unwrap().0).collect();
        known.iter().for_each(|seat| drop(seat.engage()));
        let (newcomer, gone) = seats.take(at(9)).unwrap();
        assert_eq!(gone, Some(at(1)));
        assert_eq!(seats.take(at(10)).unwrap().1, Some(at(2)), "of those who have most, who was first");
        assert!(!newcomer.out.is_cancelled());
        // Of one address, a connection that has not said who it is goes before one that has.
        let seats = Arc::new(Seats::default());
        let own: Vec<Seat> = (0..16).map(|_| seats.take(at(20)).unwrap().0).collect();
        own[..15].iter().for_each(|seat| drop(seat.engage()));
        let _newest = seats.take(at(20)).unwrap();
        assert!(own[15].out.is_cancelled() && own[..15].iter().all(|seat| !seat.out.is_cancelled()));
        drop((known, own, newcomer));
        for n in 0..3000_u16 {
            let [a, b] = n.to_be_bytes();
            let (seat, _) = seats.take(IpAddr::from([10, 1, a, b])).unwrap();
            drop(seat.engage());
        }
        let inner = seats.lock();
        assert_eq!(inner.well.len(), MOST_REMEMBERED);
        assert!(inner.well.contains_key(&IpAddr::from([10, 1, 11, 183])), "the latest");
    }

    #[test]
    fn i11_room_for_bodies_comes_from_who_holds_more() {
        let seats = Arc::new(Seats::default());
        let (small, _) = seats.take(at(1)).unwrap();
        let (large, _) = seats.take(at(2)).unwrap();
        let (known, _) = seats.take(at(3)).unwrap();
        let (_one, _two, _three) = (small.needs(10), large.needs(1000), known.needs(5000));
        let engaged = known.engage();
        assert_eq!(small.ask_for_room(), Some(at(2)));
        assert!(large.out.is_cancelled() && !known.out.is_cancelled());
        assert_eq!(small.ask_for_room(), None, "who is known is not asked");
        drop(engaged);
        assert_eq!(small.ask_for_room(), Some(at(3)));
    }
}
