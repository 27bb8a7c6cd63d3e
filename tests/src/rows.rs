//! Connection attempts, many at once: TCP connects, UDP datagrams that are answered, SCTP INITs that are seen.
//!
//! All sockets live in the pods' namespaces and are driven by the calling thread. Attempts that should fail share one
//! wait.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use vswitch::lab::within;

/// How long an attempt that should fail is given.
const SILENCE: Duration = Duration::from_millis(300);
/// How long one that should succeed is given: a lost SYN is sent again after a second.
const PATIENCE: Duration = Duration::from_secs(4);
const SCTP: i32 = 132;

/// What an attempt is made with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Transport {
    /// A connection.
    Tcp,
    /// A datagram and its answer.
    Udp,
    /// An INIT; nobody answers, since the kernel may have no SCTP of its own.
    Sctp,
}

/// An attempt.
#[derive(Clone, Debug)]
pub struct Row {
    /// Index of the sender's stand.
    pub from: usize,
    /// The receiver's address.
    pub addr: IpAddr,
    /// With what.
    pub transport: Transport,
    /// The receiver's port.
    pub port: u16,
    /// Whether it should succeed.
    pub allowed: bool,
}

/// A pod's servers, on some ports. A raw socket is a `UdpSocket` here too: it sends and receives in the same way.
#[derive(Debug)]
pub struct Stand {
    netns: PathBuf,
    tcp: Vec<Socket>,
    udp: Vec<UdpSocket>,
    sctp: [UdpSocket; 2],
}

impl Stand {
    /// Serves `ports` inside `netns`.
    ///
    /// # Panics
    /// When a socket cannot be had.
    #[must_use]
    pub fn open(netns: &Path, ports: &[u16]) -> Stand {
        let open = || -> io::Result<Stand> {
            let listen = |port: &u16| {
                let socket = dual(Type::STREAM, *port)?;
                socket.listen(1024)?;
                Ok(socket)
            };
            Ok(Stand {
                netns: netns.to_owned(),
                tcp: ports.iter().map(listen).collect::<io::Result<_>>()?,
                udp: ports
                    .iter()
                    .map(|port| Ok(dual(Type::DGRAM, *port)?.into()))
                    .collect::<io::Result<_>>()?,
                sctp: [raw(Domain::IPV4)?, raw(Domain::IPV6)?],
            })
        };
        within(netns, open).expect("a pod's namespace").expect("sockets of a pod")
    }

    /// Answers what came, and adds the numbers of the INITs that did to `seen`.
    fn serve(&self, seen: &mut Vec<usize>) {
        let mut buffer = [0; 256];
        for listener in &self.tcp {
            while listener.accept().is_ok() {}
        }
        for socket in &self.udp {
            while let Ok((n, from)) = socket.recv_from(&mut buffer) {
                // The sender may be gone already.
                let _ = socket.send_to(&buffer[..n], from);
            }
        }
        for (socket, head) in self.sctp.iter().zip([20, 0]) {
            while let Ok((n, _)) = socket.recv_from(&mut buffer) {
                let tag = buffer[..n].get(head + 16..head + 20).and_then(|tag| tag.try_into().ok());
                seen.extend(tag.map(|tag| u32::from_be_bytes(tag) as usize - 1));
            }
        }
    }
}

fn dual(kind: Type, port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, kind, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(kind == Type::STREAM)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}

fn raw(domain: Domain) -> io::Result<UdpSocket> {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(SCTP)))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn mapped(addr: IpAddr, port: u16) -> SocketAddr {
    match addr {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped(), port).into(),
        IpAddr::V6(v6) => (v6, port).into(),
    }
}

/// An INIT chunk whose tag is the row's number plus one. Its checksum is left out: receivers here do not look.
fn init(sport: u16, dport: u16, row: usize) -> [u8; 32] {
    let mut init = [0; 32];
    init[..2].copy_from_slice(&sport.to_be_bytes());
    init[2..4].copy_from_slice(&dport.to_be_bytes());
    (init[12], init[15]) = (1, 20);
    init[16..20].copy_from_slice(&(row as u32 + 1).to_be_bytes());
    (init[22], init[25], init[27], init[31]) = (0xff, 1, 1, 1);
    init
}

/// A pod's part in a run of attempts.
struct Sender {
    udp: UdpSocket,
    /// By row.
    tcp: Vec<(usize, Socket)>,
}

/// Makes all attempts, SCTP ones from port `sport`, and returns the numbers of those that did not go as they should.
///
/// # Panics
/// When a socket cannot be had.
#[must_use]
pub fn attempt(stands: &[&Stand], rows: &[Row], sport: u16) -> Vec<usize> {
    let mut done = vec![false; rows.len()];
    let mut senders = Vec::new();
    let began = Instant::now();
    for (i, stand) in stands.iter().enumerate() {
        let own = || rows.iter().enumerate().filter(|(_, row)| row.from == i);
        let send = || -> io::Result<Sender> {
            let udp: UdpSocket = dual(Type::DGRAM, 0)?.into();
            let mut tcp = Vec::new();
            for (n, row) in own() {
                let to = mapped(row.addr, row.port);
                // What the kernel says at once (a refusal by ICMP) counts as not arriving.
                match row.transport {
                    Transport::Tcp => {
                        let socket = dual(Type::STREAM, 0)?;
                        socket.set_linger(Some(Duration::ZERO))?;
                        let _ = socket.connect(&to.into());
                        tcp.push((n, socket));
                    }
                    Transport::Udp => drop(udp.send_to(&(n as u32).to_be_bytes(), to)),
                    Transport::Sctp => {
                        let raw = &stand.sctp[usize::from(row.addr.is_ipv6())];
                        let _ = raw.send_to(&init(sport, row.port, n), (row.addr, 0));
                    }
                }
            }
            Ok(Sender { udp, tcp })
        };
        senders.push(within(&stand.netns, send).expect("a pod's namespace").expect("sockets of a pod"));
    }
    let sent = Instant::now();
    let mut buffer = [0; 256];
    loop {
        let mut seen = Vec::new();
        stands.iter().for_each(|stand| stand.serve(&mut seen));
        for sender in &mut senders {
            while let Ok((n, _)) = sender.udp.recv_from(&mut buffer) {
                seen.extend(<[u8; 4]>::try_from(&buffer[..n]).map(|n| u32::from_be_bytes(n) as usize));
            }
            let connected = |socket: &Socket| socket.peer_addr().is_ok();
            seen.extend(sender.tcp.extract_if(.., |(_, socket)| connected(socket)).map(|(n, _)| n));
        }
        // A straggler of an earlier run has no row here, or one that it proves to be wrong.
        seen.into_iter().filter(|n| *n < rows.len()).for_each(|n| done[n] = true);
        let arrived = rows.iter().zip(&done).all(|(row, done)| *done || !row.allowed);
        if (arrived && sent.elapsed() > SILENCE) || began.elapsed() > PATIENCE {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    (0..rows.len()).filter(|n| done[*n] != rows[*n].allowed).collect()
}
