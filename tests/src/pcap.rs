//! Writes TCP conversations as a capture file, for dissectors to judge bytes that no peer here can be made to send.

use std::io;
use std::path::Path;

/// A conversation between a client and a server, as segments in their order.
#[derive(Debug, Default, Clone)]
pub struct Conversation {
    segments: Vec<(bool, Vec<u8>)>,
}

impl Conversation {
    /// Adds bytes that the client sent.
    pub fn client(&mut self, bytes: &[u8]) {
        self.segments.push((true, bytes.to_vec()));
    }

    /// Adds bytes that the server sent.
    pub fn server(&mut self, bytes: &[u8]) {
        self.segments.push((false, bytes.to_vec()));
    }
}

/// Writes a capture of conversations from 127.0.0.1 to `port`, each on a client port of its own.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, port: u16, conversations: &[Conversation]) -> io::Result<()> {
    /// Raw IP, without a link layer.
    const LINKTYPE_RAW: u32 = 101;
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    const PUSH: u8 = 0x08;
    /// Below what an IPv4 packet can hold.
    const SEGMENT: usize = 60_000;

    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 0x0004_0000, LINKTYPE_RAW] {
        file.extend_from_slice(&u32::to_le_bytes(word));
    }
    let mut clock = 0u32;
    for (client_port, conversation) in (40_000u16..).zip(conversations) {
        let (mut client, mut server) = (0u32, 0u32); // sequence numbers
        let mut packet = |from_client: bool, flags: u8, bytes: &[u8], counts: u32| {
            let (sent, seen) = if from_client {
                (&mut client, server)
            } else {
                (&mut server, client)
            };
            let ports = if from_client {
                [client_port, port]
            } else {
                [port, client_port]
            };
            clock += 1;
            push_packet(&mut file, clock, ports, [*sent, seen], flags, bytes);
            *sent = sent.wrapping_add(counts);
        };
        packet(true, SYN, &[], 1);
        packet(false, SYN | ACK, &[], 1);
        packet(true, ACK, &[], 0);
        for (from_client, bytes) in &conversation.segments {
            for chunk in bytes.chunks(SEGMENT) {
                packet(*from_client, PUSH | ACK, chunk, u32::try_from(chunk.len()).unwrap_or(0));
            }
        }
    }
    std::fs::write(path, file)
}

fn push_packet(file: &mut Vec<u8>, clock: u32, ports: [u16; 2], sequence: [u32; 2], flags: u8, bytes: &[u8]) {
    let length = 40 + bytes.len();
    let captured = u32::try_from(length).unwrap_or(0);
    for word in [clock / 1000, clock % 1000 * 1000, captured, captured] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    let total = u16::try_from(length).unwrap_or(0).to_be_bytes();
    file.extend_from_slice(&[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0, 0]);
    file.extend_from_slice(&[127, 0, 0, 1, 127, 0, 0, 1]);
    for port in ports {
        file.extend_from_slice(&port.to_be_bytes());
    }
    for number in sequence {
        file.extend_from_slice(&number.to_be_bytes());
    }
    file.extend_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    file.extend_from_slice(bytes);
}
