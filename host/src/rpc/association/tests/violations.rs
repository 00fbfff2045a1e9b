use super::*;
use crate::rpc::ByteOrder;
use crate::rpc::frame::Flaw;
use crate::rpc::violation::Blame;

/// How the server takes leave: the last PDU that it sent.
#[derive(Debug, PartialEq)]
enum Leave {
    Nak(NakReason, Vec<(u8, u8)>),
    Fault(FaultStatus, u32),
}

fn leave(mut output: BytesMut) -> Leave {
    let frames = std::iter::from_fn(|| next_frame(&mut output, u16::MAX).unwrap());
    let Frame { header, body } = frames.last().expect("the server says something");
    match header.kind {
        PacketType::BindNak => {
            let nak = BindNak::decode(&body, header.drep.order()).unwrap();
            Leave::Nak(nak.reason, nak.versions)
        }
        PacketType::Fault => {
            assert!(header.flags.has(Flags::DID_NOT_EXECUTE));
            Leave::Fault(
                Fault::decode(&body, header.drep.order()).unwrap().status,
                header.call_id,
            )
        }
        kind => panic!("the last PDU is a {kind}"),
    }
}

fn nak(reason: NakReason) -> Leave {
    Leave::Nak(reason, vec![(5, 0), (5, 1)])
}

/// A PDU of call 9 with `count` bytes after its header, changed by `change`.
fn pdu(kind: PacketType, count: usize, change: impl Fn(&mut [u8])) -> BytesMut {
    let mut out = BytesMut::new();
    crate::rpc::pdu::write_pdu(&mut out, &header(kind, LE), |writer| writer.bytes(&vec![0; count]));
    change(&mut out);
    out
}

/// Feeds `sent` to a server, bound or not, which must end with `violation`, take leave as `expected` and stay ended.
fn assert_ends(bound: bool, sent: &[u8], violation: Violation, expected: Leave) {
    let mut server = server();
    if bound {
        feed(&mut server, [&plain_bind()[..]]);
    }
    let made = feed(&mut server, [sent]);
    assert_eq!(made.violation, Some(violation));
    assert_eq!(leave(made.output), expected, "{violation}");
    assert!(!server.is_bound());
    let after = feed(&mut server, [&plain_bind()[..]]);
    assert_eq!(
        after,
        Made {
            calls: vec![],
            output: BytesMut::new(),
            violation: Some(Violation::Ended)
        }
    );
}

#[test]
fn a_header_that_no_pdu_has_ends_the_association() {
    use PacketType::{Bind, Request};
    type Change = fn(&mut [u8]);
    let cases: [(PacketType, Change, Flaw, NakReason); 7] = [
        (
            Bind,
            |p| p[0] = 4,
            Flaw::Version { major: 4, minor: 0 },
            NakReason::PROTOCOL_VERSION_NOT_SUPPORTED,
        ),
        (
            Bind,
            |p| p[1] = 2,
            Flaw::Version { major: 5, minor: 2 },
            NakReason::PROTOCOL_VERSION_NOT_SUPPORTED,
        ),
        (
            Bind,
            |p| p[4] = 0x30,
            Flaw::Representation(0x30),
            NakReason::NOT_SPECIFIED,
        ),
        (
            Bind,
            |p| p[8] = 15,
            Flaw::TooShort { length: 15, auth: 0 },
            NakReason::NOT_SPECIFIED,
        ),
        (
            Bind,
            |p| p[10] = 30,
            Flaw::TooShort { length: 40, auth: 30 },
            NakReason::NOT_SPECIFIED,
        ),
        (
            Bind,
            |p| p[8..10].fill(0xff),
            Flaw::TooLong {
                length: 65535,
                limit: 5840,
                authenticated: false,
            },
            NakReason::LOCAL_LIMIT_EXCEEDED,
        ),
        (
            Bind,
            |p| p[8..11].fill(0xff),
            Flaw::TooLong {
                length: 65535,
                limit: 5840,
                authenticated: true,
            },
            NakReason::AUTHENTICATION_TYPE_NOT_RECOGNIZED,
        ),
    ];
    for (kind, change, flaw, reason) in cases {
        assert_ends(false, &pdu(kind, 24, change), Violation::Frame(flaw), nak(reason));
        let fault = Leave::Fault(FaultStatus::PROTO_ERROR, 9);
        assert_ends(true, &pdu(Request, 24, change), Violation::Frame(flaw), fault);
    }
}

#[test]
fn a_header_is_judged_before_the_rest_of_its_pdu_arrives() {
    let long = pdu(PacketType::Request, 0, |pdu| pdu[8..10].fill(0xff));
    assert!(matches!(
        feed(&mut server(), [&long[..16]]).violation,
        Some(Violation::Frame(_))
    ));
}

#[test]
fn only_a_bind_opens_an_association_and_only_once() {
    let fault = || Leave::Fault(FaultStatus::PROTO_ERROR, 9);
    for kind in [
        PacketType::Request,
        PacketType::AlterContext,
        PacketType::CoCancel,
        PacketType::Other(1),
    ] {
        assert_ends(false, &pdu(kind, 24, |_| ()), Violation::BeforeBind(kind), fault());
    }
    assert_ends(
        true,
        &plain_bind(),
        Violation::SecondBind,
        nak(NakReason::NOT_SPECIFIED),
    );
}

#[test]
fn what_a_client_may_not_send_ends_the_association() {
    use PacketType::*;
    for kind in [
        Response,
        Fault,
        BindAck,
        BindNak,
        AlterContextResponse,
        Auth3,
        Shutdown,
        Other(1),
        Other(20),
    ] {
        let fault = Leave::Fault(FaultStatus::PROTO_ERROR, 9);
        assert_ends(true, &pdu(kind, 24, |_| ()), Violation::Unexpected(kind), fault);
    }
}

#[test]
fn a_malformed_body_ends_the_association() {
    use PacketType::{AlterContext, Bind, Request};
    let three_contexts = |pdu: &mut [u8]| pdu[24] = 3;
    let not_specified = || nak(NakReason::NOT_SPECIFIED);
    let fault = || Leave::Fault(FaultStatus::PROTO_ERROR, 9);
    assert_ends(
        false,
        &pdu(Bind, 40, three_contexts),
        Violation::Malformed(Bind),
        not_specified(),
    );
    assert_ends(
        false,
        &pdu(Bind, 3, |_| ()),
        Violation::Malformed(Bind),
        not_specified(),
    );
    assert_ends(
        false,
        &pdu(Bind, 40, |_| ()),
        Violation::NothingProposed,
        not_specified(),
    );
    let no_syntax = proposing(Bind, vec![element(0, Interface::KMS.id(), &[])]);
    assert_ends(false, &no_syntax, Violation::NothingProposed, not_specified());
    assert_ends(
        true,
        &pdu(AlterContext, 40, three_contexts),
        Violation::Malformed(AlterContext),
        fault(),
    );
    assert_ends(true, &pdu(Request, 7, |_| ()), Violation::Malformed(Request), fault());
    // An object is announced, but the PDU ends before it.
    let object = |pdu: &mut [u8]| pdu[3] |= Flags::OBJECT.0;
    assert_ends(true, &pdu(Request, 23, object), Violation::Malformed(Request), fault());
}

#[test]
fn authentication_is_refused_as_not_recognized() {
    use PacketType::{AlterContext, Bind, Request};
    let authenticated = |pdu: &mut [u8]| pdu[10] = 8;
    let recognized = nak(NakReason::AUTHENTICATION_TYPE_NOT_RECOGNIZED);
    assert_ends(
        false,
        &pdu(Bind, 40, authenticated),
        Violation::Authentication(Bind),
        recognized,
    );
    for kind in [AlterContext, Request] {
        let fault = Leave::Fault(FaultStatus::ACCESS_DENIED, 9);
        assert_ends(
            true,
            &pdu(kind, 40, authenticated),
            Violation::Authentication(kind),
            fault,
        );
    }
}

#[test]
fn a_request_above_the_limit_is_refused_however_it_comes() {
    let too_large = || {
        (
            Violation::RequestTooLarge { limit: 4096 },
            Leave::Fault(FaultStatus::ACCESS_DENIED, 3),
        )
    };
    let in_one = fragment(3, Flags::WHOLE, LE, HEAD, &[0; 4097]);
    let by_hint = fragment(
        3,
        Flags::FIRST,
        LE,
        RequestHead {
            alloc_hint: 4097,
            ..HEAD
        },
        &[0; 8],
    );
    let mut in_pieces = fragment(3, Flags::FIRST, LE, HEAD, &[0; 4096]);
    in_pieces.unsplit(fragment(3, Flags(0), LE, HEAD, &[0; 1]));
    for sent in [in_one, by_hint, in_pieces] {
        let (violation, fault) = too_large();
        assert_ends(true, &sent, violation, fault);
    }
    let mut server = server();
    feed(&mut server, [&plain_bind()[..]]);
    let largest = feed(&mut server, [&fragment(3, Flags::WHOLE, LE, HEAD, &[0; 4096])[..]]);
    assert_eq!(largest.calls[0].stub.len(), 4096);
}

#[test]
fn fragments_out_of_order_or_interleaved_are_refused() {
    let first = |call| fragment(call, Flags::FIRST, LE, HEAD, &[1; 8]);
    let next = |call, flags, drep, head| fragment(call, flags, drep, head, &[2; 8]);
    let refused = RequestHead { opnum: 5, ..HEAD };
    for (what, sent, call) in [
        ("not begun", vec![next(3, Flags(0), LE, HEAD)], 3),
        ("not begun, last", vec![next(3, Flags::LAST, LE, HEAD)], 3),
        ("another call", vec![first(3), next(4, Flags(0), LE, HEAD)], 4),
        ("another call begins", vec![first(3), first(4)], 4),
        ("begins twice", vec![first(3), first(3)], 3),
        (
            "a whole call between",
            vec![first(3), next(4, Flags::WHOLE, LE, HEAD)],
            4,
        ),
        ("another byte order", vec![first(3), next(3, Flags::LAST, BE, HEAD)], 3),
        (
            "another operation",
            vec![first(3), next(3, Flags::LAST, LE, refused)],
            3,
        ),
        (
            "another context",
            vec![
                first(3),
                next(3, Flags::LAST, LE, RequestHead { context_id: 1, ..HEAD }),
            ],
            3,
        ),
        ("refused, not begun", vec![next(3, Flags::LAST, LE, refused)], 3),
        (
            "refused, another call",
            vec![next(3, Flags::FIRST, LE, refused), next(4, Flags::LAST, LE, refused)],
            4,
        ),
        (
            "alter_context between",
            vec![first(3), pdu(PacketType::AlterContext, 40, |_| ())],
            9,
        ),
    ] {
        let sent: Vec<u8> = sent.iter().flat_map(|pdu| pdu.to_vec()).collect();
        println!("{what}");
        let fault = Leave::Fault(FaultStatus::PROTO_ERROR, call);
        assert_ends(true, &sent, Violation::Fragment(call), fault);
    }
}

#[test]
fn blame_tells_a_broken_peer_from_an_incompatible_one() {
    assert_eq!(Violation::SecondBind.blame(), Blame::PeerMisbehaved);
    assert_eq!(
        Violation::Authentication(PacketType::Bind).blame(),
        Blame::PeerIncompatible
    );
    assert_eq!(
        Violation::Frame(Flaw::Version { major: 4, minor: 0 }).blame(),
        Blame::PeerIncompatible
    );
    assert_eq!(Violation::Ended.blame(), Blame::Caller);
    assert_eq!(Violation::Ended.refusal(PacketType::Bind), Refusal::Silent);
}

#[test]
fn a_refusal_is_in_the_byte_order_of_what_it_refuses() {
    let mut sent = BytesMut::new();
    crate::rpc::pdu::write_pdu(&mut sent, &header(PacketType::Request, BE), |writer| {
        writer.bytes(&[0; 8]);
    });
    let mut made = feed(&mut server(), [&sent[..]]);
    let frame = next_frame(&mut made.output, u16::MAX).unwrap().unwrap();
    assert_eq!((frame.header.drep.order(), frame.header.call_id), (ByteOrder::Big, 9));
}
