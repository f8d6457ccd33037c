//! Doing what a written event says: one act for each kind of activity.
#![expect(unsafe_code, reason = "system calls that no safe wrapper gives")]

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use model::{Activity, Created, Endpoint, LinkKind, Protocol};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::{
    Failure,
    actor::{fork, memfd, wait},
    replay::folders_above,
};

/// What must be there before the act, made by somebody else.
pub(crate) fn prepare(act: &Activity) -> Result<(), Failure> {
    let there = |path: &str| -> Result<(), Failure> {
        folders_above(Path::new(path))?;
        if !Path::new(path).exists() {
            File::create(path)?;
        }
        Ok(())
    };
    let not_there = |path: &str| -> Result<(), Failure> {
        folders_above(Path::new(path))?;
        let _was_not = fs::remove_file(path);
        Ok(())
    };
    match act {
        Activity::FileOpen { file, created: Created::Yes, .. } => not_there(&file.path),
        Activity::FileOpen { file, .. }
        | Activity::FileDelete { file }
        | Activity::FileMode { file, .. }
        | Activity::FileOwner { file, .. } => there(&file.path),
        Activity::FileRename { from, to } => {
            there(&from.path).and_then(|()| folders_above(Path::new(&to.path)))
        }
        Activity::FileLink { target, link, .. } => {
            there(&target.path)?;
            not_there(&link.path)
        }
        Activity::Mount { target, .. } => {
            folders_above(Path::new(&target.path))?;
            let _is_there = fs::create_dir(&target.path);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Does it.
pub(crate) fn act(act: &Activity) -> Result<(), Failure> {
    match act {
        Activity::FileOpen { file, flags, created } => {
            let create = if *created == Created::Yes { libc::O_CREAT } else { 0 };
            let path = CString::new(Path::new(&file.path).as_os_str().as_bytes())?;
            let flags = (flags.cast_signed() & (libc::O_ACCMODE | libc::O_TRUNC | libc::O_APPEND)) | create;
            // SAFETY: the path lives during the call; the descriptor is closed.
            unsafe { libc::close(libc::open(path.as_ptr(), flags, 0o644)) };
        }
        Activity::FileDelete { file } => fs::remove_file(&file.path)?,
        Activity::FileRename { from, to } => fs::rename(&from.path, &to.path)?,
        Activity::FileLink { target, link, kind: LinkKind::Hard } => fs::hard_link(&target.path, &link.path)?,
        Activity::FileLink { target, link, .. } => std::os::unix::fs::symlink(&target.path, &link.path)?,
        Activity::FileMode { file, mode } => {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(*mode);
            fs::set_permissions(&file.path, mode)?;
        }
        Activity::FileOwner { file, uid, gid } => {
            std::os::unix::fs::chown(&file.path, Some(*uid), Some(*gid))?;
        }
        Activity::Connect(flow) | Activity::Accept(flow) | Activity::SocketClose { flow, .. } => {
            let (to, protocol) = (socket_address(flow.remote), flow.protocol);
            if protocol == Protocol::Udp {
                UdpSocket::bind((unspecified(to.ip()), 0))?.connect(to)?;
            } else {
                // Everybody's address is ours: somebody listens there.
                let listener = TcpListener::bind((unspecified(to.ip()), to.port()))?;
                let _ends = (std::net::TcpStream::connect(to)?, listener.accept()?);
            }
        }
        Activity::Bind { protocol, local } | Activity::Listen { protocol, local } => {
            if *protocol == Protocol::Udp {
                UdpSocket::bind(socket_address(*local))?;
            } else {
                TcpListener::bind(socket_address(*local))?;
            }
        }
        Activity::DnsQuery { name, record_type, server } => ask(name, *record_type, *server)?,
        Activity::MemfdCreate { name, .. } => drop(memfd(name)?),
        Activity::NamespaceChange { .. } => {
            // SAFETY: this process has one thread and shares no descriptors.
            unsafe { unshare_unsafe(UnshareFlags::NEWUTS | UnshareFlags::NEWNS)? };
        }
        Activity::CredentialChange { after, .. } => {
            // SAFETY: no memory is passed.
            unsafe { libc::setresuid(after.uid, after.euid, after.euid) };
        }
        Activity::Mount { source, target, fs_type, .. } => {
            let kind = if fs_type.is_empty() { "tmpfs" } else { fs_type };
            rustix::mount::mount(source, &target.path, kind, rustix::mount::MountFlags::empty(), None)?;
        }
        Activity::Ptrace { .. } | Activity::ProcessVmWrite { .. } => on_a_child(act)?,
        Activity::IoUringSetup { entries } => {
            let mut parameters = [0_u8; 120];
            // SAFETY: struct io_uring_params has 120 bytes; the descriptor goes with this process.
            unsafe { libc::syscall(libc::SYS_io_uring_setup, *entries, parameters.as_mut_ptr()) };
        }
        Activity::Bpf { .. } => drop(load_nothing()),
        _ => {}
    }
    Ok(())
}

/// A network of this process's own, in which every address is this machine's.
pub(crate) fn own_network() -> Result<(), Failure> {
    // SAFETY: this process has one thread and shares no descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET)? };
    crate::guest::loopback_up()?;
    for family in [libc::AF_INET, libc::AF_INET6] {
        route_all_to_loopback(u8::try_from(family)?)?;
    }
    Ok(())
}

/// `ip route add local default dev lo`: struct nlmsghdr and struct rtmsg of linux/rtnetlink.h, and the attribute RTA_OIF.
fn route_all_to_loopback(family: u8) -> Result<(), Failure> {
    const LOOPBACK: u32 = 1;
    const RTN_LOCAL: u8 = 2;
    const RT_TABLE_LOCAL: u8 = 255;
    const RTPROT_STATIC: u8 = 4;
    const RT_SCOPE_HOST: u8 = 254;
    let mut message: Vec<u8> = 36_u32.to_ne_bytes().to_vec();
    message.extend(libc::RTM_NEWROUTE.to_ne_bytes());
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_CREATE | libc::NLM_F_ACK;
    message.extend(u16::try_from(flags)?.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, 0, 0, 0, RT_TABLE_LOCAL, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL, 0, 0, 0, 0]);
    message.extend(8_u16.to_ne_bytes());
    message.extend(libc::RTA_OIF.to_ne_bytes());
    message.extend(LOOPBACK.to_ne_bytes());
    // SAFETY: messages are given with their lengths; the socket is closed at the end.
    let answer = unsafe {
        let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
        libc::send(socket, message.as_ptr().cast(), message.len(), 0);
        let mut answer = [0_u8; 256];
        libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), 0);
        libc::close(socket);
        answer
    };
    // struct nlmsgerr follows its header: 0, or a negative errno.
    match i32::from_ne_bytes(answer[16..20].try_into()?) {
        0 => Ok(()),
        error => Err(format!("route: {}", io::Error::from_raw_os_error(-error)).into()),
    }
}

fn socket_address(endpoint: Endpoint) -> SocketAddr {
    SocketAddr::new(endpoint.addr, endpoint.port)
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { "0.0.0.0".parse() } else { "::".parse() }.unwrap_or(like)
}

/// A question of RFC 1035.
fn ask(name: &str, record_type: u16, server: Endpoint) -> Result<(), Failure> {
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        question.push(u8::try_from(label.len().min(63))?);
        question.extend(label.bytes().take(63));
    }
    question.push(0);
    question.extend(if record_type == 0 { 1 } else { record_type }.to_be_bytes());
    question.extend([0, 1]);
    let server = if server.addr.is_unspecified() { "192.0.2.53".parse()? } else { server.addr };
    UdpSocket::bind((unspecified(server), 0))?.send_to(&question, (server, 53))?;
    Ok(())
}

fn on_a_child(act: &Activity) -> Result<(), Failure> {
    let mut place = [0_u8; 8];
    let at = place.as_mut_ptr();
    let child = fork(|| {
        // SAFETY: only waits for its end.
        unsafe { libc::pause() };
        0
    })?;
    // SAFETY: a child of ours, whose memory is a copy of ours; its end is waited for.
    unsafe {
        match act {
            Activity::ProcessVmWrite { .. } => {
                let parts = libc::iovec { iov_base: at.cast(), iov_len: 8 };
                libc::process_vm_writev(child, &raw const parts, 1, &raw const parts, 1, 0);
            }
            Activity::Ptrace { request, .. } => {
                let seize = libc::c_long::from(libc::PTRACE_SEIZE.cast_signed());
                if libc::c_long::try_from(*request)? == seize {
                    libc::syscall(libc::SYS_ptrace, seize, child, 0, 0);
                } else {
                    libc::syscall(libc::SYS_ptrace, libc::PTRACE_ATTACH, child, 0, 0);
                    wait(child)?;
                    libc::syscall(libc::SYS_ptrace, *request, child, at, 0);
                }
            }
            _ => {}
        }
        libc::kill(child, libc::SIGKILL);
    }
    wait(child)?;
    Ok(())
}

/// Loads a socket filter that lets nothing through and attaches it nowhere (union bpf_attr of linux/bpf.h); its descriptor.
pub(crate) fn load_nothing() -> i32 {
    const BPF_PROG_LOAD: libc::c_long = 5;
    let program: [u64; 2] = [0xb7, 0x95];
    let licence = c"GPL";
    let mut attributes = [0_u64; 16];
    attributes[0] = 1 | (2 << 32);
    attributes[1] = program.as_ptr() as u64;
    attributes[2] = licence.as_ptr() as u64;
    // SAFETY: what the attributes point to lives during the call; the descriptor goes with this process.
    unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, attributes.as_ptr(), size_of_val(&attributes)) as i32
    }
}
