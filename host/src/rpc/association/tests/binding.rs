use super::*;
use crate::rpc::ByteOrder;

/// The results of a bind with these contexts.
fn results(server: &mut Association, kind: PacketType, contexts: Vec<ContextElement>) -> Vec<ContextResult> {
    let made = feed(server, [&proposing(kind, contexts)[..]]);
    assert_eq!(made.violation, None);
    let mut output = made.output;
    let frame = next_frame(&mut output, u16::MAX).unwrap().unwrap();
    BindAck::decode(&frame.body, ByteOrder::Little).unwrap().results
}

const KMS: Interface = Interface::KMS;
const NO_SYNTAX: ContextResult = ContextResult::ProviderRejection(RejectReason::TRANSFER_SYNTAXES_NOT_SUPPORTED);
const NO_INTERFACE: ContextResult = ContextResult::ProviderRejection(RejectReason::ABSTRACT_SYNTAX_NOT_SUPPORTED);

#[test]
fn a_bind_like_that_of_windows_is_answered_byte_for_byte() {
    let made = feed(
        &mut server(),
        [&hex(include_str!("../../testdata/windows_bind.hex"))[..]],
    );
    assert_eq!(made.output, hex(include_str!("../../testdata/windows_bind_ack.hex")));
    assert_eq!(made.violation, None);
}

#[test]
fn our_client_binds_as_windows_does() {
    let mut sent = BytesMut::new();
    ClientAssociation::new(0).propose(&Proposal::like_windows(KMS), &mut sent);
    let mut windows = hex(include_str!("../../testdata/windows_bind.hex"));
    windows[12] = 1; // the call id is the client's own affair
    assert_eq!(sent, windows);
}

#[test]
fn a_big_endian_client_of_minor_version_1_is_answered_in_its_own_way() {
    let mut server = server();
    let bind = hex(include_str!("../../testdata/big_endian_bind.hex"));
    assert_eq!(
        feed(&mut server, [&bind[..]]).output,
        hex(include_str!("../../testdata/big_endian_bind_ack.hex"))
    );

    let mut request = hex(include_str!("../../testdata/big_endian_request.hex"));
    let mut output = BytesMut::new();
    let call = server.receive(&mut request, &mut output).unwrap().unwrap();
    assert_eq!((call.call_id, call.context_id, call.syntax, call.drep), (8, 5, NDR, BE));
    assert_eq!(
        call.object,
        Some("00010203-0405-0607-0809-0a0b0c0d0e0f".parse().unwrap())
    );
    let body = crate::rpc::stub::decode_request(NDR, ByteOrder::Big, &call.stub, 100).unwrap();
    assert_eq!(body, "hello");

    let stub = crate::rpc::stub::encode_response(NDR, ByteOrder::Big, Some(b"hi"), 0x8007_000D);
    server.answer(&call, Answer::Stub(stub), &mut output);
    assert_eq!(output, hex(include_str!("../../testdata/big_endian_response.hex")));
}

#[test]
fn each_context_is_answered_on_its_own() {
    let unknown = SyntaxId {
        uuid: Uuid::from_u128(7),
        major: 1,
        minor: 0,
    };
    let newer = SyntaxId { minor: 1, ..KMS.id() };
    let other_major = SyntaxId { major: 2, ..KMS.id() };
    let proposed = vec![
        element(0, unknown, &[NDR.id()]),
        element(1, KMS.id(), &[unknown]),
        element(2, newer, &[NDR.id()]),
        element(3, other_major, &[NDR.id()]),
        element(4, KMS.id(), &[unknown, NDR.id()]),
        element(5, KMS.id(), &[NDR.id()]),
    ];
    let accepted = ContextResult::Accepted(NDR.id());
    assert_eq!(
        results(&mut server(), PacketType::Bind, proposed),
        [NO_INTERFACE, NO_SYNTAX, NO_INTERFACE, NO_INTERFACE, accepted, accepted]
    );
}

#[test]
fn of_several_transfer_syntaxes_the_one_that_the_offer_prefers_is_accepted() {
    for (preference, chosen) in [(vec![NDR64, NDR], NDR64), (vec![NDR, NDR64], NDR), (vec![NDR], NDR)] {
        let offer = Offer {
            syntaxes: preference,
            ..Offer::kms()
        };
        let mut server = Association::new(Arc::new(offer), Limits::default(), GROUP, 1688);
        let one_context = vec![element(0, KMS.id(), &[NDR.id(), NDR64.id()])];
        let accepted = ContextResult::Accepted(chosen.id());
        assert_eq!(results(&mut server, PacketType::Bind, one_context), [accepted]);
    }
}

#[test]
fn features_are_negotiated_once_and_at_bind_time_only() {
    let features = |id, bits| element(id, KMS.id(), &[SyntaxId::bind_time_features(bits)]);
    for (proposed, accepted) in [(0b01, 0), (0b10, 0b10), (0b11, 0b10), (u64::MAX, 0b10)] {
        let results = results(&mut server(), PacketType::Bind, vec![features(0, proposed)]);
        assert_eq!(results, [ContextResult::Features(accepted)]);
    }
    let twice = proposing(PacketType::Bind, vec![features(0, 3), features(1, 3)]);
    assert_eq!(
        feed(&mut server(), [&twice[..]]).violation,
        Some(Violation::FeaturesTwice)
    );

    let mut server = server();
    feed(&mut server, [&plain_bind()[..]]);
    assert_eq!(
        results(&mut server, PacketType::AlterContext, vec![features(1, 3)]),
        [NO_SYNTAX]
    );
}

#[test]
fn alter_context_adds_contexts_and_keeps_those_that_are_there() {
    let mut pair = Pair::bound(server(), NDR);
    let outcome = pair.propose(&Proposal::one(KMS, NDR64));
    assert_eq!(outcome.syntaxes, [NDR64]);
    for syntax in [NDR, NDR64, NDR] {
        pair.ask(syntax, 0, LE, b"12345678");
        let call = pair.receive().unwrap().unwrap();
        assert_eq!(call.syntax, syntax);
        pair.server
            .answer(&call, Answer::Stub(call.stub.clone()), &mut pair.to_client);
        assert_eq!(pair.reply(), Reply::Stub(call.stub, LE));
    }
}

#[test]
fn a_context_may_be_proposed_again_but_not_with_another_meaning() {
    let mut server = server();
    feed(&mut server, [&plain_bind()[..]]);
    let again = vec![element(0, KMS.id(), &[NDR.id()])];
    assert_eq!(
        results(&mut server, PacketType::AlterContext, again),
        [ContextResult::Accepted(NDR.id())]
    );
    let changed = proposing(PacketType::AlterContext, vec![element(0, KMS.id(), &[NDR64.id()])]);
    assert_eq!(
        feed(&mut server, [&changed[..]]).violation,
        Some(Violation::ContextRedefined(0))
    );
}

#[test]
fn contexts_above_the_limit_are_rejected() {
    let mut server = server_with(Limits {
        contexts: 2,
        ..Limits::default()
    });
    let proposed = (0..3).map(|id| element(id, KMS.id(), &[NDR.id()])).collect();
    let accepted = ContextResult::Accepted(NDR.id());
    let rejected = ContextResult::ProviderRejection(RejectReason::LOCAL_LIMIT_EXCEEDED);
    assert_eq!(
        results(&mut server, PacketType::Bind, proposed),
        [accepted, accepted, rejected]
    );
}

#[test]
fn fragment_sizes_are_clamped_to_what_everyone_takes_and_what_we_offer() {
    for (client_sends, client_takes, we_take, we_send) in [
        (5840, 5840, 5840, 5840),
        (4280, 4280, 4280, 4280),
        (u16::MAX, u16::MAX, 5840, 5840),
        (1432, 1432, 1432, 1432),
        (0, 1000, 1432, 1432),
        (2001, 3007, 2000, 3000),
    ] {
        let bind = Bind {
            max_xmit_frag: client_sends,
            max_recv_frag: client_takes,
            assoc_group_id: 0,
            contexts: vec![element(0, KMS.id(), &[NDR.id()])],
        };
        let mut sent = BytesMut::new();
        bind.encode(&header(PacketType::Bind, LE), &mut sent);
        let mut output = feed(&mut server(), [&sent[..]]).output;
        let frame = next_frame(&mut output, u16::MAX).unwrap().unwrap();
        let ack = BindAck::decode(&frame.body, ByteOrder::Little).unwrap();
        assert_eq!(
            (ack.max_recv_frag, ack.max_xmit_frag),
            (we_take, we_send),
            "{client_sends} {client_takes}"
        );
    }
}

#[test]
fn where_no_context_is_accepted_the_association_stands_but_serves_no_call() {
    let mut server = server();
    let unknown = SyntaxId {
        uuid: Uuid::from_u128(7),
        major: 1,
        minor: 0,
    };
    assert_eq!(
        results(&mut server, PacketType::Bind, vec![element(0, unknown, &[NDR.id()])]),
        [NO_INTERFACE]
    );
    let mut made = feed(&mut server, [&fragment(1, Flags::WHOLE, LE, HEAD, b"")[..]]);
    assert_eq!((made.calls.len(), made.violation), (0, None));
    let frame = next_frame(&mut made.output, u16::MAX).unwrap().unwrap();
    assert_eq!(
        Fault::decode(&frame.body, ByteOrder::Little).unwrap().status,
        FaultStatus::UNKNOWN_IF
    );
}
