//! Network: connect, bind, listen, accept, close with bytes, DNS questions.

use std::{
    collections::BTreeMap,
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::{ExitCode, Stdio},
};

use agent::record::{Body, Record};
use model::{Activity, ClassPlan, Endpoint, EventClass, FilterPlan, Flow, KernelTest, Pid, Protocol};

use crate::{
    Check, Failure,
    scene::{Scene, actor, acts, command, run_actor, same},
};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        name: "net: TCP over IPv4, IPv6 and mapped: each step once, bytes at close equal what was sent",
        run: tcp,
    },
    Check { name: "net: a connect that is refused is told, its close is not", run: refused },
    Check { name: "net: the bytes of a connection that is reset, and who accepted it", run: reset },
    Check { name: "net: UDP connected and not, with bytes", run: udp },
    Check { name: "net: DNS questions over UDP and TCP, hostile ones too", run: dns },
    Check { name: "net: DNS question of the C library's resolver", run: resolver },
    Check { name: "net: i1_ports and networks filter", run: filter },
    Check { name: "net: of 20,000 connects every one is right on both sides", run: storm },
];

const ALL: [EventClass; 5] =
    [EventClass::Connect, EventClass::Accept, EventClass::Bind, EventClass::Listen, EventClass::SocketClose];

fn end(addr: impl Into<IpAddr>, port: u16) -> Endpoint {
    Endpoint { addr: addr.into(), port }
}

const UNCHOSEN: Endpoint = Endpoint { addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0 };

/// Runs an actor that prints numbers on its standard output; its process id and the numbers.
fn talk(words: &[&str]) -> Result<(Pid, Vec<u32>), Failure> {
    let mut child = command(words).stdout(Stdio::piped()).spawn()?;
    let mut text = String::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_string(&mut text)?;
    }
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("actor {words:?} ended with {status}").into());
    }
    let numbers = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    Ok((Pid(child.id()), numbers))
}

/// Server and client as the actor told them.
struct Pair {
    server: Pid,
    client: Pid,
    port: u16,
    client_port: u16,
}

fn pair(words: &[&str]) -> Result<Pair, Failure> {
    let (server, numbers) = talk(words)?;
    let [client, port, client_port] = numbers[..] else {
        return Err(format!("strange answer {numbers:?}").into());
    };
    Ok(Pair { server, client: Pid(client), port: port as u16, client_port: client_port as u16 })
}

fn tcp(scene: &mut Scene) -> Result<(), Failure> {
    scene.all_of(&ALL)?;
    ALL.iter().try_for_each(|class| scene.needs(*class))?;
    let v4 = IpAddr::from(Ipv4Addr::LOCALHOST);
    let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
    for (kind, any, here) in [
        ("v4", v4, v4),
        ("v6", v6, v6),
        // A socket of IPv6 on both ends speaks IPv4: it is told as IPv4 wherever an address is known.
        ("mapped", IpAddr::from(Ipv6Addr::UNSPECIFIED), v4),
    ] {
        let (pair, records) = scene.during(|_| pair(&["net", "tcp", kind]))?;
        let server = end(here, pair.port);
        let client = end(here, pair.client_port);
        let protocol = Protocol::Tcp;
        let connected = Flow { protocol, local: client, remote: server };
        let accepted = Flow { protocol, local: server, remote: client };
        same(
            &format!("{kind} client"),
            &acts(&records, pair.client),
            &vec![
                &Activity::Connect(Flow { protocol, local: UNCHOSEN, remote: server }),
                &Activity::SocketClose { flow: connected, sent_bytes: 1000, received_bytes: 250_000 },
            ],
        )?;
        let mut expected = [
            Activity::Bind { protocol, local: end(any, pair.port) },
            Activity::Listen { protocol, local: end(any, pair.port) },
            Activity::Accept(accepted),
            Activity::SocketClose { flow: accepted, sent_bytes: 250_000, received_bytes: 1000 },
        ];
        let mut found: Vec<Activity> = acts(&records, pair.server).into_iter().cloned().collect();
        // Which side's end comes first is TCP's choice; the order is not what is tested here.
        expected.sort_by_key(|activity| format!("{activity:?}"));
        found.sort_by_key(|activity| format!("{activity:?}"));
        same(&format!("{kind} server"), &found, &expected.to_vec())?;
    }
    Ok(())
}

fn refused(scene: &mut Scene) -> Result<(), Failure> {
    scene.all_of(&ALL)?;
    scene.needs(EventClass::Connect)?;
    let ((pid, port), records) = scene.during(|_| {
        let (pid, numbers) = talk(&["net", "refused"])?;
        Ok((pid, numbers[0] as u16))
    })?;
    let attempt = Activity::Connect(Flow {
        protocol: Protocol::Tcp,
        local: UNCHOSEN,
        remote: end(Ipv4Addr::LOCALHOST, port),
    });
    let found: Vec<&Activity> = acts(&records, pid)
        .into_iter()
        .filter(|activity| !matches!(activity, Activity::Bind { .. } | Activity::Listen { .. }))
        .collect();
    // Once with a blocking socket, once with one that does not block.
    same("attempts", &found, &vec![&attempt; 2])
}

fn reset(scene: &mut Scene) -> Result<(), Failure> {
    scene.all_of(&[EventClass::SocketClose])?;
    scene.needs(EventClass::SocketClose)?;
    let (pair, records) = scene.during(|_| pair(&["net", "reset"]))?;
    let (server, client) = (end(Ipv4Addr::LOCALHOST, pair.port), end(Ipv4Addr::LOCALHOST, pair.client_port));
    let close = |local, remote, sent_bytes, received_bytes| Activity::SocketClose {
        flow: Flow { protocol: Protocol::Tcp, local, remote },
        sent_bytes,
        received_bytes,
    };
    same("client", &acts(&records, pair.client), &vec![&close(client, server, 10, 0)])?;
    // The server accepts and never closes: the reset ends the connection, in an interrupt.
    same("server", &acts(&records, pair.server), &vec![&close(server, client, 0, 10)])
}

fn udp(scene: &mut Scene) -> Result<(), Failure> {
    scene.all_of(&ALL)?;
    scene.needs(EventClass::SocketClose)?;
    for (kind, here) in [("v4", IpAddr::from(Ipv4Addr::LOCALHOST)), ("v6", IpAddr::from(Ipv6Addr::LOCALHOST))]
    {
        let ((pid, numbers), records) = scene.during(|_| talk(&["net", "udp", kind]))?;
        let [port, connected, unconnected] = numbers[..] else { return Err("strange answer".into()) };
        let server = end(here, port as u16);
        let connect = Activity::Connect(Flow { protocol: Protocol::Udp, local: UNCHOSEN, remote: server });
        let close = |local: u32, sent_bytes, received_bytes| Activity::SocketClose {
            flow: Flow { protocol: Protocol::Udp, local: end(here, local as u16), remote: server },
            sent_bytes,
            received_bytes,
        };
        let found: Vec<&Activity> = acts(&records, pid)
            .into_iter()
            .filter(|activity| !matches!(activity, Activity::Bind { .. }))
            .collect();
        // The server answers the first of the client's datagrams, which makes it a sender, too.
        let expected = [&connect, &close(connected, 300, 50), &connect, &close(unconnected, 400, 0)];
        let of_client: Vec<&Activity> = found
            .into_iter()
            .filter(|activity| match activity {
                Activity::Connect(flow) | Activity::SocketClose { flow, .. } => flow.remote == server,
                _ => true,
            })
            .collect();
        same(kind, &of_client, &expected.to_vec())?;
    }
    Ok(())
}

fn questions(records: &[Record], pid: Pid) -> Vec<(String, u16, Endpoint)> {
    let question = |activity: &Activity| match activity {
        Activity::DnsQuery { name, record_type, server } => Some((name.clone(), *record_type, *server)),
        _ => None,
    };
    acts(records, pid).into_iter().filter_map(question).collect()
}

fn dns(scene: &mut Scene) -> Result<(), Failure> {
    scene.all_of(&[EventClass::Dns])?;
    scene.needs(EventClass::Dns)?;
    let (pid, records) = scene.during(|_| run_actor(&["net", "dns"]))?;
    let server = end(Ipv4Addr::LOCALHOST, 53);
    let long = format!("{0}.{0}.{0}.{1}", "l".repeat(63), "m".repeat(61));
    let expected = vec![
        ("www.example.test".to_owned(), 1, server),
        ("unconnected.test".to_owned(), 28, server),
        (long, 16, server),
        (r"\255\000\032\.x".to_owned(), 1, server),
        ("loop".to_owned(), 0, server),
        ("over.tcp.test".to_owned(), 15, server),
        ("six.test".to_owned(), 1, end(Ipv6Addr::LOCALHOST, 53)),
    ];
    same("questions", &questions(&records, pid), &expected)
}

fn resolver(scene: &mut Scene) -> Result<(), Failure> {
    scene.all_of(&[EventClass::Dns])?;
    scene.needs(EventClass::Dns)?;
    let ((pid, code), records) = scene.during(|_| {
        let mut child = actor(&["net", "resolver"])?;
        let code = child.wait()?.code();
        Ok((Pid(child.id()), code))
    })?;
    if code == Some(77) {
        return Err(Box::new(crate::scene::Skip("no /etc/resolv.conf to put another in place of".into())));
    }
    same("actor", &code, &Some(0))?;
    let found = questions(&records, pid);
    let wanted = ("hemostat-probe.example.test".to_owned(), 1, end(Ipv4Addr::LOCALHOST, 53));
    if found.contains(&wanted) { Ok(()) } else { Err(format!("the resolver asked {found:?}").into()) }
}

fn filter(scene: &mut Scene) -> Result<(), Failure> {
    let remotes = |scene: &mut Scene, test: KernelTest| -> Result<Vec<Endpoint>, Failure> {
        let classes = [(EventClass::Connect, ClassPlan::AnyOf(vec![test]))].into();
        scene.probes.apply_plan(&FilterPlan { classes, hold: vec![] })?;
        scene.needs(EventClass::Connect)?;
        let (pid, records) = scene.during(|_| run_actor(&["net", "filter"]))?;
        let remote = |activity: &Activity| match activity {
            Activity::Connect(flow) => Some(flow.remote),
            _ => None,
        };
        Ok(acts(&records, pid).into_iter().filter_map(remote).collect())
    };
    let all = [
        end([127, 1, 0, 1], 4444),
        end([127, 2, 0, 1], 4444),
        end([127, 1, 0, 2], 4445),
        end(Ipv6Addr::LOCALHOST, 4446),
    ];
    same("port", &remotes(scene, KernelTest::Port(4444))?, &all[..2].to_vec())?;
    let net = |text: &str| -> Result<KernelTest, Failure> { Ok(KernelTest::Net(text.parse()?)) };
    same("network", &remotes(scene, net("127.1.0.0/16")?)?, &vec![all[0], all[2]])?;
    same("IPv6 network", &remotes(scene, net("::1/128")?)?, &vec![all[3]])?;
    same("none", &remotes(scene, KernelTest::Port(4443))?, &vec![])
}

fn storm(scene: &mut Scene) -> Result<(), Failure> {
    let each: u32 = if scene.quick { 250 } else { 5_000 };
    let (_pins, mut scene) = crate::file::Usual::open("net", scene)?;
    scene.all_of(&ALL)?;
    ALL.iter().try_for_each(|class| scene.needs(*class))?;
    let cgroup = crate::actor::cgroup_id(std::process::id())?;
    let before: u64 = scene
        .probes
        .counts()?
        .iter()
        .filter(|(class, _)| ALL.contains(class))
        .map(|(_, count)| count.lost())
        .sum();
    let ((server, numbers), records) = scene.during(|_| talk(&["net", "storm", &each.to_string()]))?;
    let (ports, workers) = numbers.split_at(4);
    let mut connects: BTreeMap<Pid, u32> = BTreeMap::new();
    let (mut accepts, mut closes) = (BTreeMap::new(), BTreeMap::new());
    for record in &records {
        let Body::Act(activity) = &record.body else { continue };
        let pid = record.task.key.pid;
        let worker = workers.contains(&pid.0);
        if !worker && pid != server {
            continue;
        }
        let parent = if worker { server } else { Pid(std::process::id()) };
        if record.task.parent.pid != parent || record.task.cgroup.0 != cgroup {
            return Err(format!("wrong task for {activity:?}: {:?}", record.task).into());
        }
        match activity {
            Activity::Connect(flow) if ports.contains(&u32::from(flow.remote.port)) => {
                *connects.entry(pid).or_default() += 1;
            }
            Activity::Accept(flow) => {
                *accepts.entry(flow.remote.port).or_insert(0) += u32::from(pid == server)
            }
            Activity::SocketClose { flow, sent_bytes, received_bytes } => {
                let ours =
                    if worker { (*sent_bytes, *received_bytes) } else { (*received_bytes, *sent_bytes) };
                same("bytes", &ours, &(3, 0))?;
                let side = if worker { flow.local.port } else { flow.remote.port };
                let sides: &mut (u32, u32) =
                    closes.entry((side, flow.remote.port.max(flow.local.port))).or_default();
                if worker { sides.0 += 1 } else { sides.1 += 1 }
            }
            _ => {}
        }
    }
    let counts = scene.probes.counts()?;
    let lost: u64 = ALL.iter().filter_map(|class| counts.get(class)).map(|count| count.lost()).sum();
    if lost > before {
        return Err(format!("{} events were lost: {counts:?}", lost - before).into());
    }
    let expected: BTreeMap<Pid, u32> = workers.iter().map(|worker| (Pid(*worker), each)).collect();
    same("connects", &connects, &expected)?;
    let total = 4 * each;
    same("accepts", &accepts.values().sum::<u32>(), &total)?;
    let sums = closes.values().fold((0, 0), |sums: (u32, u32), sides| (sums.0 + sides.0, sums.1 + sides.1));
    same("closes of both sides", &sums, &(total, total))
}

/// What the checks above have done by another process.
pub(crate) fn help(words: &[&str]) -> Result<ExitCode, Failure> {
    crate::net_calls::help(words)
}
