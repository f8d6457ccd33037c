//! Datagrams as exporters send them, and as attackers would.

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(1_795_359_845_000_000_000);
const EXPORTED: u32 = 1_795_359_844;

fn exporter(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

/// Writes datagrams.
#[derive(Default, Clone)]
pub(in super::super) struct Datagram(Vec<u8>);

impl Datagram {
    pub(in super::super) fn v9(sequence: u32, uptime: u32) -> Self {
        Self::default().u16(9).u16(0).u32(uptime).u32(EXPORTED).u32(sequence).u32(5)
    }

    pub(in super::super) fn ipfix(sequence: u32) -> Self {
        Self::default().u16(10).u16(0).u32(EXPORTED).u32(sequence).u32(5)
    }

    fn u8(mut self, number: u8) -> Self {
        self.0.push(number);
        self
    }

    fn u16(mut self, number: u16) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn u32(mut self, number: u32) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn set(self, id: u16, content: Self) -> Self {
        let length = u16::try_from(content.0.len() + 4).unwrap();
        self.u16(id).u16(length).bytes(&content.0)
    }

    /// With IPFIX's length in the head.
    fn whole(mut self) -> Vec<u8> {
        if self.0[1] == 10 {
            let length = u16::try_from(self.0.len()).unwrap();
            self.0[2..4].copy_from_slice(&length.to_be_bytes());
        }
        self.0
    }

    fn fields(self, fields: &[(u16, u16)]) -> Self {
        fields.iter().fold(self, |set, (element, length)| set.u16(*element).u16(*length))
    }
}

const PLAIN: [(u16, u16); 10] =
    [(8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (6, 1), (1, 4), (2, 4), (22, 4), (21, 4)];

fn template(id: u16, fields: &[(u16, u16)]) -> Datagram {
    Datagram::default().u16(id).u16(u16::try_from(fields.len()).unwrap()).fields(fields)
}

/// A record of [`PLAIN`].
fn plain(last: u8) -> Datagram {
    Datagram::default()
        .bytes(&[10, 0, 0, 5])
        .bytes(&[203, 0, 113, last])
        .u16(51_514)
        .u16(443)
        .u8(6)
        .u8(2)
        .u32(5342)
        .u32(14)
        .u32(60_000)
        .u32(64_000)
}

fn decode(exporters: &mut Exporters, datagram: &[u8]) -> (Decoded, Result<(), Rejected>) {
    let mut decoded = Decoded::default();
    let outcome = exporters.datagram(exporter(9000), datagram, NOW, &mut decoded);
    (decoded, outcome)
}

#[test]
fn version_9_is_read_with_its_templates() {
    let mut exporters = Exporters::default();
    let data = |sequence| {
        Datagram::v9(sequence, 65_000).set(256, plain(9).bytes(&plain(10).0).bytes(&[0, 0])).whole()
    };
    let (early, outcome) = decode(&mut exporters, &data(1));
    assert_eq!((early.flows.len(), early.unknown, outcome), (0, 1, Ok(())));
    let templates = Datagram::v9(2, 65_000).set(0, template(256, &PLAIN)).whole();
    assert_eq!(decode(&mut exporters, &templates).1, Ok(()));
    let (decoded, outcome) = decode(&mut exporters, &data(3));
    assert_eq!((decoded.flows.len(), decoded.lost, outcome), (2, 0, Ok(())));
    let flow = &decoded.flows[0];
    assert_eq!(flow.source.unwrap().to_string(), "10.0.0.5");
    assert_eq!((flow.destination_port, flow.protocol, flow.tcp_flags), (Some(443), Some(6), Some(2)));
    // Ended at 64 s of uptime, exported at 65 s, which was one second before now.
    assert_eq!(flow.at, NOW.0 - 2_000_000_000);
    assert_eq!(flow.began, Some(NOW.0 - 6_000_000_000));
    assert_eq!(decode(&mut exporters, &data(3)).0.repeated, 1, "the network brought it twice");
    assert_eq!(decode(&mut exporters, &data(7)).0.lost, 3);
    let (late, _) = decode(&mut exporters, &data(5));
    assert_eq!((late.flows.len(), late.lost), (2, 0));
    // Started again: the template may be another now.
    let (restarted, _) = decode(&mut exporters, &Datagram::v9(1, 100).set(256, plain(9)).whole());
    assert_eq!((restarted.unknown, restarted.lost), (1, 0));
}

#[test]
fn ipfix_is_read_with_variable_lengths_enterprises_and_withdrawals() {
    let mut exporters = Exporters::default();
    let fields = Datagram::default()
        .u16(300)
        .u16(5)
        .fields(&[(27, 16), (28, 16)])
        .u16(0x8000 | 110)
        .u16(u16::MAX)
        .u32(4444)
        .u16(0x8000 | 1)
        .u16(8)
        .u32(29_305)
        .fields(&[(153, 8)]);
    let record = |name: &[u8], long: bool| {
        let record = Datagram::default().bytes(&[0x20; 16]).bytes(&[0x21; 16]);
        let length = u16::try_from(name.len()).unwrap();
        let record = if long { record.u8(255).u16(length) } else { record.u8(u8::try_from(length).unwrap()) };
        let ended = u64::try_from(NOW.0 / 1_000_000 - 2500).unwrap();
        record.bytes(name).bytes(&77_u64.to_be_bytes()).bytes(&ended.to_be_bytes())
    };
    let datagram = Datagram::ipfix(10)
        .set(2, fields.clone())
        .set(300, record(b"", false).bytes(&record(b"a name", false).0).bytes(&record(&[7; 300], true).0));
    let (decoded, outcome) = decode(&mut exporters, &datagram.whole());
    assert_eq!((decoded.flows.len(), outcome), (3, Ok(())));
    assert_eq!(decoded.flows[2].bytes_back, Some(77));
    assert_eq!(decoded.flows[2].at, NOW.0 - 2_500_000_000);
    // Three records were counted; two are missing then.
    let data = |sequence| Datagram::ipfix(sequence).set(300, record(b"x", false)).whole();
    assert_eq!(decode(&mut exporters, &data(15)).0.lost, 2);
    let withdrawn = Datagram::ipfix(16).set(2, Datagram::default().u16(300).u16(0)).whole();
    decode(&mut exporters, &withdrawn).1.unwrap();
    assert_eq!(decode(&mut exporters, &data(16)).0.unknown, 1);
    let anew = Datagram::ipfix(17).set(2, fields).set(2, Datagram::default().u16(2).u16(0)).whole();
    decode(&mut exporters, &anew).1.unwrap();
    assert_eq!(decode(&mut exporters, &data(17)).0.unknown, 1, "all were withdrawn");
}

#[test]
fn options_are_read_and_are_no_flows() {
    let mut exporters = Exporters::default();
    let options = Datagram::default().u16(400).u16(4).u16(8).fields(&[(1, 4), (34, 4), (35, 1)]);
    let v9 = Datagram::v9(1, 1)
        .set(1, options.bytes(&[0, 0]))
        .set(400, Datagram::default().u32(0).u32(100).u8(2))
        .whole();
    let (decoded, outcome) = decode(&mut exporters, &v9);
    assert_eq!((decoded.flows.len(), decoded.sampling, outcome), (0, Some(100), Ok(())));
    let options = Datagram::default().u16(400).u16(3).u16(1).fields(&[(149, 4), (305, 4), (306, 4)]);
    let ipfix =
        Datagram::ipfix(1).set(3, options).set(400, Datagram::default().u32(5).u32(1).u32(999)).whole();
    assert_eq!(decode(&mut exporters, &ipfix).0.sampling, Some(1000));
}

#[test]
fn templates_expire_and_a_wrong_clock_is_corrected() {
    let mut exporters = Exporters::default();
    let templates = Datagram::v9(1, 65_000).set(0, template(256, &PLAIN)).whole();
    decode(&mut exporters, &templates).1.unwrap();
    let data = |sequence| Datagram::v9(sequence, 65_000).set(256, plain(9)).whole();
    let later = Timestamp(NOW.0 + 1_799_000_000_000);
    let mut decoded = Decoded::default();
    exporters.datagram(exporter(9000), &data(2), later, &mut decoded).unwrap();
    assert_eq!((decoded.flows.len(), decoded.skew), (1, Some(-1800)));
    assert_eq!(decoded.flows[0].at, later.0 - 1_000_000_000, "dated by our clock");
    let later = Timestamp(NOW.0 + 1_801_000_000_000);
    exporters.datagram(exporter(9000), &data(3), later, &mut decoded).unwrap();
    assert_eq!((decoded.flows.len(), decoded.unknown), (1, 1), "nobody renewed its template");
}

#[test]
fn no_exporter_changes_how_anothers_data_is_read() {
    let mut exporters = Exporters::default();
    let templates = Datagram::v9(1, 65_000).set(0, template(256, &PLAIN)).whole();
    decode(&mut exporters, &templates).1.unwrap();
    // Somebody at the same address, from another port, swaps source and destination.
    let mut swapped = PLAIN;
    (swapped[0], swapped[1]) = (PLAIN[1], PLAIN[0]);
    let forged = Datagram::v9(1, 65_000).set(0, template(256, &swapped)).whole();
    exporters.datagram(exporter(666), &forged, NOW, &mut Decoded::default()).unwrap();
    let (decoded, _) = decode(&mut exporters, &Datagram::v9(2, 65_000).set(256, plain(9)).whole());
    assert_eq!(decoded.flows[0].source.unwrap().to_string(), "10.0.0.5");
}

#[test]
fn i11_tables_are_bounded_and_each_address_pushes_out_only_its_own() {
    let mut exporters = Exporters::default();
    let other = SocketAddr::from(([192, 0, 2, 2], 9000));
    let templates = Datagram::v9(1, 65_000).set(0, template(256, &PLAIN)).whole();
    exporters.datagram(other, &templates, NOW, &mut Decoded::default()).unwrap();
    for port in 1..2000 {
        exporters.datagram(exporter(port), &templates, NOW, &mut Decoded::default()).unwrap();
    }
    assert_eq!(exporters.len(), MAX_OF_ONE + 1);
    let mut decoded = Decoded::default();
    exporters
        .datagram(other, &Datagram::v9(2, 65_000).set(256, plain(9)).whole(), NOW, &mut decoded)
        .unwrap();
    assert_eq!(decoded.flows.len(), 1, "the other one still has its template");
    let mut refused = 0;
    for id in 256..2000 {
        let datagram = Datagram::v9(u32::from(id), 65_000).set(0, template(id, &PLAIN)).whole();
        refused += usize::from(decode(&mut exporters, &datagram).1.is_err());
    }
    assert_eq!(refused, 2000 - 256 - 256);
    let many = exporters.sessions.values().map(|session| session.recent.len()).max();
    assert!(many <= Some(MAX_RECENT));
}

#[test]
fn what_is_broken_is_refused_with_its_place() {
    for (datagram, says) in [
        (vec![0, 9], "byte 2: 2 bytes are needed, 0 are left"),
        (Datagram::default().u16(5).u32(0).whole(), "version 5"),
        (Datagram::default().u16(10).u16(999).u32(1).u32(1).u32(1).0, "the header says 999 bytes"),
        (Datagram::v9(1, 1).u16(256).u16(3).whole(), "byte 20: a set of 3 bytes"),
        (Datagram::v9(1, 1).u16(256).u16(40).whole(), "byte 24: 36 bytes are needed, 0 are left"),
        (Datagram::v9(1, 1).set(0, template(256, &[(8, 0)])).whole(), "its records have no bytes"),
        (Datagram::v9(1, 1).set(0, template(17, &PLAIN)).whole(), "numbers of templates begin at 256"),
        (
            Datagram::v9(1, 1).set(0, Datagram::default().u16(256).u16(9999).u32(1)).whole(),
            "a template of 9999 fields",
        ),
        (
            Datagram::ipfix(1).set(3, Datagram::default().u16(256).u16(1).u16(2).u32(1)).whole(),
            "2 scopes among 1",
        ),
    ] {
        let error = decode(&mut Exporters::default(), &datagram).1.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

/// Datagrams that were right once.
fn seeds() -> Vec<Vec<u8>> {
    let options = Datagram::default().u16(400).u16(3).u16(1).fields(&[(149, 4), (305, 4), (306, 4)]);
    vec![
        Datagram::v9(1, 65_000).set(0, template(256, &PLAIN)).set(256, plain(9)).whole(),
        Datagram::v9(2, 65_000).set(256, plain(9).bytes(&plain(10).0)).whole(),
        Datagram::ipfix(1).set(2, template(256, &[(8, 4), (96, u16::MAX), (152, 8), (155, 8)])).whole(),
        Datagram::ipfix(1).set(256, Datagram::default().u32(1).u8(3).bytes(b"abc").bytes(&[9; 16])).whole(),
        Datagram::ipfix(2).set(3, options).set(400, Datagram::default().u32(5).u32(1).u32(999)).whole(),
    ]
}

/// What is done to a datagram.
#[derive(Debug, Clone)]
enum Harm {
    Set(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Repeat(usize, usize),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        (0_usize..200, any::<u8>()).prop_map(|(at, byte)| Harm::Set(at, byte)),
        (0_usize..200).prop_map(Harm::Cut),
        (0_usize..200, proptest::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Harm::Insert(at, bytes)),
        (0_usize..200, 1_usize..60).prop_map(|(at, length)| Harm::Repeat(at, length)),
    ]
}

fn harmed(mut datagram: Vec<u8>, harms: &[Harm]) -> Vec<u8> {
    for harm in harms {
        let length = datagram.len().max(1);
        match harm {
            Harm::Set(at, byte) => {
                if let Some(one) = datagram.get_mut(at % length) {
                    *one = *byte;
                }
            }
            Harm::Cut(at) => datagram.truncate(at % length),
            Harm::Insert(at, bytes) => {
                let at = at % length;
                datagram.splice(at.min(datagram.len())..at.min(datagram.len()), bytes.iter().copied());
            }
            Harm::Repeat(at, count) => {
                let part: Vec<u8> = datagram.iter().skip(at % length).take(*count).copied().collect();
                datagram.extend(part);
            }
        }
    }
    if datagram.first_chunk() == Some(&[0, 10])
        && datagram.len() >= 4
        && let Ok(length) = u16::try_from(datagram.len())
    {
        datagram[2..4].copy_from_slice(&length.to_be_bytes());
    }
    datagram
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The body of a fuzzer, on stable: whatever comes, nothing panics, tables stay bounded, and flows are no more than the bytes could hold.
    #[test]
    fn i11_any_datagrams_are_read_or_refused(
        picks in proptest::collection::vec((0_usize..5, proptest::collection::vec(harm(), 0..6)), 1..12),
        noise in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 0..4),
    ) {
        let mut exporters = Exporters::default();
        let seeds = seeds();
        let harmed = picks.iter().map(|(pick, harms)| harmed(seeds[*pick].clone(), harms));
        for datagram in harmed.chain(noise) {
            let (decoded, _) = decode(&mut exporters, &datagram);
            prop_assert!(decoded.flows.len() <= datagram.len());
            for flow in &decoded.flows {
                prop_assert!(flow.at <= NOW.0 && flow.began.is_none_or(|began| began <= flow.at));
                let text = serde_json::to_string(flow).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Flow>(&text).unwrap(), flow);
            }
        }
        prop_assert!(exporters.len() <= MAX_OF_ONE);
    }
}
