use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::rpc::ByteOrder;

fn drep() -> impl Strategy<Value = DataRepresentation> {
    prop_oneof![Just(LE), Just(BE)]
}

fn kind() -> impl Strategy<Value = PacketType> {
    (0u8..21).prop_map(PacketType::from_number)
}

fn syntax_id() -> impl Strategy<Value = SyntaxId> {
    prop_oneof![
        Just(Interface::KMS.id()),
        Just(NDR.id()),
        Just(NDR64.id()),
        any::<u64>().prop_map(SyntaxId::bind_time_features),
        (any::<u128>(), any::<u16>(), any::<u16>()).prop_map(|(uuid, major, minor)| SyntaxId {
            uuid: Uuid::from_u128(uuid),
            major,
            minor
        }),
    ]
}

fn context() -> impl Strategy<Value = ContextElement> {
    (0u16..4, syntax_id(), prop::collection::vec(syntax_id(), 0..4)).prop_map(
        |(id, abstract_syntax, transfer_syntaxes)| ContextElement {
            id,
            abstract_syntax,
            transfer_syntaxes,
        },
    )
}

fn bind() -> impl Strategy<Value = Bind> {
    (
        any::<u16>(),
        any::<u16>(),
        any::<u32>(),
        prop::collection::vec(context(), 0..6),
    )
        .prop_map(|(max_xmit_frag, max_recv_frag, assoc_group_id, contexts)| Bind {
            max_xmit_frag,
            max_recv_frag,
            assoc_group_id,
            contexts,
        })
}

fn proposal() -> impl Strategy<Value = BytesMut> {
    (
        bind(),
        prop_oneof![Just(PacketType::Bind), Just(PacketType::AlterContext)],
        drep(),
    )
        .prop_map(|(bind, kind, drep)| {
            let mut out = BytesMut::new();
            bind.encode(&header(kind, drep), &mut out);
            out
        })
}

fn request() -> impl Strategy<Value = BytesMut> {
    (
        0u32..3,
        0u8..4,
        drep(),
        0u16..3,
        0u16..2,
        prop::collection::vec(any::<u8>(), 0..40),
    )
        .prop_map(|(call_id, flags, drep, context_id, opnum, stub)| {
            fragment(
                call_id,
                Flags(flags),
                drep,
                RequestHead {
                    alloc_hint: 0,
                    context_id,
                    opnum,
                    object: None,
                },
                &stub,
            )
        })
}

fn noise() -> impl Strategy<Value = BytesMut> {
    (kind(), drep(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..60)).prop_map(|(kind, drep, flags, body)| {
        let mut out = BytesMut::new();
        let header = Header {
            flags: Flags(flags),
            ..header(kind, drep)
        };
        crate::rpc::pdu::write_pdu(&mut out, &header, |writer| writer.bytes(&body));
        out
    })
}

/// Bytes that begin like a session more often than not, with a few of them changed.
fn session() -> impl Strategy<Value = Vec<u8>> {
    let pdu = prop_oneof![4 => request(), 2 => proposal(), 1 => noise()];
    let changes = prop::collection::vec((any::<Index>(), any::<u8>()), 0..3);
    (prop::bool::weighted(0.9), prop::collection::vec(pdu, 0..8), changes).prop_map(|(bound, pdus, changes)| {
        let mut bytes = if bound { plain_bind().to_vec() } else { Vec::new() };
        pdus.iter().for_each(|pdu| bytes.extend_from_slice(pdu));
        if !bytes.is_empty() {
            for (index, value) in changes {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
        }
        bytes
    })
}

fn assert_bounded(server: &Association, sent: usize, made: &Made) {
    assert!(
        made.output.len() <= 64 + 2 * sent,
        "{} bytes are answered with {}",
        sent,
        made.output.len()
    );
    assert!(server.contexts.len() <= usize::from(Limits::default().contexts));
    assert!(made.calls.iter().all(|call| call.stub.len() <= 4096 && call.opnum == 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_the_input_gives_the_same_result(bytes in session(), cuts in prop::collection::vec(any::<Index>(), 0..12)) {
        let whole = feed(&mut server(), [&bytes[..]]);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut split = server();
        let made = feed(&mut split, cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]));
        assert_bounded(&split, bytes.len(), &made);
        prop_assert_eq!(made, whole);
        let by_byte = feed(&mut server(), bytes.chunks(1));
        prop_assert_eq!(by_byte, feed(&mut server(), [&bytes[..]]));
    }

    #[test]
    fn no_bytes_panic_or_make_us_hold_or_send_much(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut server = server();
        let made = feed(&mut server, [&bytes[..]]);
        assert_bounded(&server, bytes.len(), &made);
    }

    #[test]
    fn a_call_survives_any_fragmentation(stub in prop::collection::vec(any::<u8>(), 1..4000), sizes in prop::collection::vec(1usize..900, 1..9), drep in drep()) {
        let mut server = server();
        feed(&mut server, [&plain_bind()[..]]);
        let mut rest = &stub[..];
        let mut sizes = sizes.into_iter().cycle();
        let mut sent = Vec::new();
        let mut flags = Flags::FIRST;
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(sizes.next().unwrap().min(rest.len()));
            let last = if after.is_empty() { Flags::LAST } else { Flags(0) };
            sent.extend_from_slice(&fragment(1, flags | last, drep, HEAD, chunk));
            (rest, flags) = (after, Flags(0));
        }
        let made = feed(&mut server, [&sent[..]]);
        prop_assert_eq!(made.violation, None);
        prop_assert_eq!(&made.calls[0].stub, &stub);
    }

    #[test]
    fn answers_keep_to_the_fragment_size_that_the_client_takes(size: u16, length in 0usize..20_000, drep in drep()) {
        let mut server = server();
        let bind = Bind { max_xmit_frag: size, max_recv_frag: size, assoc_group_id: 0, contexts: vec![element(0, Interface::KMS.id(), &[NDR.id()])] };
        let mut sent = BytesMut::new();
        bind.encode(&header(PacketType::Bind, drep), &mut sent);
        sent.unsplit(fragment(1, Flags::WHOLE, drep, HEAD, b""));
        let mut output = BytesMut::new();
        let call = server.receive(&mut sent, &mut output).unwrap().unwrap();
        output.clear();
        let stub: Bytes = vec![5; length].into();
        server.answer(&call, Answer::Stub(stub.clone()), &mut output);

        let (mut whole, mut left) = (Vec::new(), length);
        while let Some(Frame { header, body }) = next_frame(&mut output, u16::MAX).unwrap() {
            prop_assert!(header.frag_length <= size.clamp(MINIMUM_FRAGMENT, OFFERED_FRAGMENT));
            let (head, chunk) = crate::rpc::pdu::ResponseHead::split(&header, body).unwrap();
            prop_assert_eq!(usize::try_from(head.alloc_hint).unwrap(), left);
            prop_assert_eq!(header.flags.has(Flags::FIRST), whole.is_empty());
            left -= chunk.len();
            prop_assert_eq!(header.flags.has(Flags::LAST), left == 0);
            prop_assert!(left == 0 || chunk.len().is_multiple_of(8));
            whole.extend_from_slice(&chunk);
        }
        prop_assert_eq!(whole, stub);
    }

    #[test]
    fn proposals_come_back(bind in bind(), drep in drep(), kind in kind()) {
        let mut out = BytesMut::new();
        bind.encode(&header(kind, drep), &mut out);
        let frame = next_frame(&mut out, u16::MAX).unwrap().unwrap();
        prop_assert_eq!((frame.header.kind, frame.header.call_id), (kind, 9));
        prop_assert_eq!(Bind::decode(&frame.body, drep.order()), Ok(bind));
    }

    #[test]
    fn answers_to_proposals_come_back(
        sizes: (u16, u16),
        group: u32,
        address in "[0-9]{0,5}",
        results in prop::collection::vec((0u8..4, any::<u16>(), syntax_id()), 0..9),
        drep in drep(),
    ) {
        let results = results.into_iter().map(|(result, reason, syntax)| match result {
            0 => ContextResult::Accepted(syntax),
            1 => ContextResult::UserRejection(RejectReason(reason)),
            2 => ContextResult::ProviderRejection(RejectReason(reason)),
            _ => ContextResult::Features(reason),
        });
        let ack = BindAck {
            max_xmit_frag: sizes.0,
            max_recv_frag: sizes.1,
            assoc_group_id: group,
            secondary_address: address.into_bytes(),
            results: results.collect(),
        };
        let mut out = BytesMut::new();
        ack.encode(&header(PacketType::BindAck, drep), &mut out);
        let frame = next_frame(&mut out, u16::MAX).unwrap().unwrap();
        prop_assert_eq!(BindAck::decode(&frame.body, drep.order()), Ok(ack));
    }

    #[test]
    fn refusals_come_back(reason: u16, versions: Vec<(u8, u8)>, context_id: u16, status: u32, drep in drep()) {
        let nak = BindNak { reason: NakReason(reason), versions: versions.into_iter().take(255).collect() };
        let mut out = BytesMut::new();
        nak.encode(&header(PacketType::BindNak, drep), &mut out);
        let frame = next_frame(&mut out, u16::MAX).unwrap().unwrap();
        prop_assert_eq!(BindNak::decode(&frame.body, drep.order()), Ok(nak));
        let fault = Fault { context_id, status: FaultStatus(status) };
        fault.encode(&header(PacketType::Fault, drep), &mut out);
        let frame = next_frame(&mut out, u16::MAX).unwrap().unwrap();
        prop_assert_eq!(Fault::decode(&frame.body, drep.order()), Ok(fault));
    }

    #[test]
    fn truncated_bodies_are_malformed_and_never_panic(bind in bind(), cut: Index, bytes: Vec<u8>) {
        let mut out = BytesMut::new();
        bind.encode(&header(PacketType::Bind, LE), &mut out);
        let body = &out[Header::LENGTH..];
        prop_assert!(Bind::decode(&body[..cut.index(body.len())], ByteOrder::Little).is_err());
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let _ = (Bind::decode(&bytes, order), BindAck::decode(&bytes, order));
            let _ = (BindNak::decode(&bytes, order), Fault::decode(&bytes, order));
        }
    }
}
