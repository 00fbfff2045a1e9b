use super::*;

#[test]
fn a_call_and_its_answer_go_through_in_both_byte_orders_and_any_number_of_fragments() {
    let limits = Limits {
        request: 100_000,
        ..Limits::default()
    };
    for syntax in TransferSyntax::ALL {
        for drep in [LE, BE] {
            for length in [0, 1, 300, 5815, 5816, 5817, 30_000] {
                let mut pair = Pair::bound(server_with(limits), syntax);
                let stub: Vec<u8> = (0..length).map(|index: usize| index.to_le_bytes()[0]).collect();
                pair.ask(syntax, 0, drep, &stub);
                let call = pair.receive().unwrap().unwrap();
                assert_eq!((call.opnum, call.syntax, call.drep), (0, syntax, drep));
                assert_eq!(call.stub, stub);
                pair.server
                    .answer(&call, Answer::Stub(call.stub.clone()), &mut pair.to_client);
                assert_eq!(pair.reply(), Reply::Stub(Bytes::from(stub), drep));
                assert!(pair.to_client.is_empty() && pair.to_server.is_empty());
            }
        }
    }
}

#[test]
fn a_relayed_answer_keeps_its_own_data_representation() {
    let mut pair = Pair::bound(server(), NDR);
    pair.ask(NDR, 0, BE, b"big");
    let call = pair.receive().unwrap().unwrap();
    let answer = Bytes::from_static(b"little");
    pair.server
        .answer(&call, Answer::StubIn(LE, answer.clone()), &mut pair.to_client);
    assert_eq!(pair.reply(), Reply::Stub(answer, LE));
}

#[test]
fn a_call_in_one_fragment_is_not_copied() {
    let mut pair = Pair::bound(server(), NDR);
    pair.ask(NDR, 0, LE, b"where I am");
    let stub_at = pair.to_server[24..].as_ptr();
    assert_eq!(pair.receive().unwrap().unwrap().stub.as_ptr(), stub_at);
}

#[test]
fn a_call_is_forwarded_as_it_came() {
    let object = uuid::Uuid::from_u128(0x1234);
    for object in [None, Some(object)] {
        let mut pair = Pair::bound(server(), NDR);
        let call = Call {
            call_id: 77,
            context_id: 9,
            opnum: 0,
            syntax: NDR,
            drep: BE,
            object,
            stub: Bytes::from(vec![7; 3000]),
        };
        assert!(pair.client.forward(&call, &mut pair.to_server));
        let mut there = pair.receive().unwrap().unwrap();
        // These two are each association's own.
        (there.call_id, there.context_id) = (77, 9);
        assert_eq!(there, call);
    }
}

#[test]
fn an_unknown_operation_is_a_fault_and_the_association_goes_on() {
    let mut pair = Pair::bound(server(), NDR);
    pair.ask(NDR, 1, LE, &[0; 8]);
    assert_eq!(pair.receive(), Ok(None));
    assert_eq!(pair.reply(), Reply::Fault(FaultStatus::OP_RNG_ERROR));
    assert_eq!(pair.server.take_answered(), 1);
    pair.ask(NDR, 0, LE, &[7]);
    let call = pair.receive().unwrap().unwrap();
    assert_eq!(pair.server.take_answered(), 0, "the call is answered by someone else");
    pair.server
        .answer(&call, Answer::Fault(FaultStatus::SERVER_TOO_BUSY), &mut pair.to_client);
    assert_eq!(pair.reply(), Reply::Fault(FaultStatus::SERVER_TOO_BUSY));
}

#[test]
fn a_refused_call_in_several_fragments_gets_one_fault_and_the_next_call_is_served() {
    let mut server = server();
    feed(&mut server, [&plain_bind()[..]]);
    for refused in [RequestHead { opnum: 5, ..HEAD }, RequestHead { context_id: 3, ..HEAD }] {
        let made = feed(
            &mut server,
            [
                &fragment(1, Flags::FIRST, LE, refused, &[0; 2000])[..],
                &fragment(1, Flags(0), LE, refused, &[0; 4000]),
                &fragment(1, Flags::LAST, LE, refused, &[0; 100]),
                &fragment(2, Flags::WHOLE, LE, HEAD, b"next"),
            ],
        );
        assert_eq!(made.violation, None);
        assert_eq!(made.calls.iter().map(|call| call.call_id).collect::<Vec<_>>(), [2]);
        let mut output = made.output;
        let kinds = std::iter::from_fn(|| next_frame(&mut output, u16::MAX).unwrap().map(|frame| frame.header));
        let kinds: Vec<_> = kinds.map(|header| (header.kind, header.call_id)).collect();
        assert_eq!(kinds, [(PacketType::Fault, 1), (PacketType::Response, 2)]);
    }
}

#[test]
fn what_is_sent_ahead_waits_in_the_input() {
    let mut pair = Pair::bound(server(), NDR);
    pair.ask(NDR, 0, LE, b"first");
    pair.ask(NDR, 0, LE, b"second");
    assert_eq!(pair.receive().unwrap().unwrap().stub, "first");
    assert!(!pair.to_server.is_empty());
    assert_eq!(pair.receive().unwrap().unwrap().stub, "second");
}

#[test]
fn an_orphaned_call_is_forgotten_and_a_cancelled_one_is_not() {
    let bare = |kind, call_id| {
        let mut out = BytesMut::new();
        Header {
            frag_length: 16,
            ..Header::new(kind, LE, call_id)
        }
        .encode(&mut out);
        out
    };
    let begun = fragment(4, Flags::FIRST, LE, HEAD, b"12345678");
    let ended = fragment(4, Flags::LAST, LE, HEAD, b"9");
    let mut server = server();
    feed(&mut server, [&plain_bind()[..]]);

    let made = feed(
        &mut server,
        [
            &begun[..],
            &bare(PacketType::CoCancel, 4),
            &bare(PacketType::Orphaned, 3),
            &ended,
        ],
    );
    assert_eq!(made.calls[0].stub, "123456789");
    let made = feed(
        &mut server,
        [&begun[..], &bare(PacketType::Orphaned, 4), &begun, &ended],
    );
    assert_eq!((made.calls.len(), made.violation), (1, None));
    assert!(server.is_between_calls());
}
