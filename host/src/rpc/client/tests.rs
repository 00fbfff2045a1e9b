use super::*;
use crate::rpc::pdu::RejectReason;
use crate::rpc::pdu::write_pdu;

const LE: DataRepresentation = DataRepresentation::LITTLE_ENDIAN;
const ACCEPTED: ContextResult = ContextResult::Accepted(TransferSyntax::Ndr.id());
const REJECTED: ContextResult = ContextResult::ProviderRejection(RejectReason::ABSTRACT_SYNTAX_NOT_SUPPORTED);

fn proposal() -> Proposal {
    Proposal::one(Interface::KMS, TransferSyntax::Ndr)
}

/// A client that has sent its bind, call 1.
fn binding() -> ClientAssociation {
    let mut client = ClientAssociation::new(100);
    client.propose(&proposal(), &mut BytesMut::new());
    client
}

/// A client that has sent a request, call 2.
fn calling() -> ClientAssociation {
    let mut client = binding();
    client
        .outcome(&proposal(), &mut ack(PacketType::BindAck, 1, vec![ACCEPTED]))
        .unwrap()
        .unwrap();
    assert!(client.request(TransferSyntax::Ndr, 0, LE, b"stub", &mut BytesMut::new()));
    client
}

fn ack(kind: PacketType, call_id: u32, results: Vec<ContextResult>) -> BytesMut {
    let ack = BindAck {
        max_xmit_frag: 4280,
        max_recv_frag: 4280,
        assoc_group_id: 1,
        secondary_address: b"1688".to_vec(),
        results,
    };
    let mut out = BytesMut::new();
    ack.encode(&Header::new(kind, LE, call_id), &mut out);
    out
}

fn pdu(kind: PacketType, call_id: u32, flags: Flags, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    write_pdu(
        &mut out,
        &Header {
            flags,
            ..Header::new(kind, LE, call_id)
        },
        |writer| writer.bytes(body),
    );
    out
}

/// A fragment of a response to call 2.
fn response(flags: Flags, stub: &[u8]) -> BytesMut {
    pdu(PacketType::Response, 2, flags, &[&[0; 8], stub].concat())
}

#[test]
fn a_rejected_context_is_an_outcome() {
    let mut answer = ack(PacketType::BindAck, 1, vec![REJECTED]);
    let mut client = binding();
    let outcome = client.outcome(&proposal(), &mut answer).unwrap().unwrap();
    assert_eq!((outcome.syntaxes, outcome.results), (vec![], vec![REJECTED]));
    assert!(!client.request(TransferSyntax::Ndr, 0, LE, b"", &mut BytesMut::new()));
}

#[test]
fn what_does_not_answer_a_bind_is_misbehaviour() {
    use PacketType::{BindAck, BindNak, Fault, Response, Shutdown};
    let whole = Flags::WHOLE;
    let not_proposed = ContextResult::Accepted(TransferSyntax::Ndr64.id());
    for (answer, misbehaviour) in [
        (ack(BindAck, 1, vec![]), Misbehaviour::Results),
        (ack(BindAck, 1, vec![ACCEPTED, ACCEPTED]), Misbehaviour::Results),
        (ack(BindAck, 1, vec![not_proposed]), Misbehaviour::Results),
        (
            ack(BindAck, 7, vec![ACCEPTED]),
            Misbehaviour::OtherCall { asked: 1, got: 7 },
        ),
        (pdu(BindAck, 1, whole, &[0; 9]), Misbehaviour::Malformed(BindAck)),
        (
            pdu(BindNak, 1, whole, &[4, 0]),
            Misbehaviour::Refused(NakReason::PROTOCOL_VERSION_NOT_SUPPORTED),
        ),
        (pdu(BindNak, 1, whole, &[]), Misbehaviour::Malformed(BindNak)),
        (pdu(Fault, 1, whole, &[0; 16]), Misbehaviour::BindFault(FaultStatus(0))),
        (pdu(Response, 1, whole, &[0; 16]), Misbehaviour::Unexpected(Response)),
        (pdu(Shutdown, 0, whole, &[]), Misbehaviour::Shutdown),
        (
            BytesMut::from(&b"HTTP/1.1 400 Bad Request"[..]),
            Misbehaviour::Frame(Flaw::Version {
                major: b'H',
                minor: b'T',
            }),
        ),
    ] {
        assert_eq!(binding().outcome(&proposal(), &mut answer.clone()), Err(misbehaviour));
    }
}

#[test]
fn what_does_not_answer_a_call_is_misbehaviour() {
    use PacketType::{BindAck, Response};
    let mut authenticated = response(Flags::WHOLE, &[0; 16]);
    authenticated[10] = 4;
    for (answers, misbehaviour) in [
        (vec![response(Flags::LAST, b"")], Misbehaviour::Fragment),
        (vec![response(Flags(0), b"")], Misbehaviour::Fragment),
        (
            vec![response(Flags::FIRST, b"1"), response(Flags::FIRST, b"2")],
            Misbehaviour::Fragment,
        ),
        (vec![response(Flags::WHOLE, &[0; 101])], Misbehaviour::TooLarge(100)),
        (
            vec![response(Flags::FIRST, &[0; 100]), response(Flags(0), b"1")],
            Misbehaviour::TooLarge(100),
        ),
        (
            vec![pdu(Response, 1, Flags::WHOLE, &[0; 8])],
            Misbehaviour::OtherCall { asked: 2, got: 1 },
        ),
        (
            vec![pdu(Response, 2, Flags::WHOLE, &[0; 7])],
            Misbehaviour::Malformed(Response),
        ),
        (vec![ack(BindAck, 2, vec![ACCEPTED])], Misbehaviour::Unexpected(BindAck)),
        (vec![authenticated], Misbehaviour::Authentication),
    ] {
        let mut input: BytesMut = answers.concat().as_slice().into();
        assert_eq!(calling().reply(&mut input), Err(misbehaviour));
    }
}

#[test]
fn a_response_is_put_together_and_an_empty_first_fragment_begins_it() {
    let mut client = calling();
    let mut input = response(Flags::FIRST, b"");
    assert_eq!(client.reply(&mut input), Ok(None));
    input.unsplit(response(Flags(0), b"one"));
    assert_eq!(client.reply(&mut input), Ok(None));
    input.unsplit(response(Flags::LAST, b"two"));
    assert_eq!(
        client.reply(&mut input),
        Ok(Some(Reply::Stub(Bytes::from_static(b"onetwo"), LE)))
    );
}

#[test]
fn requests_keep_to_the_fragment_size_that_the_server_takes() {
    let mut client = binding();
    client
        .outcome(&proposal(), &mut ack(PacketType::BindAck, 1, vec![ACCEPTED]))
        .unwrap()
        .unwrap();
    let mut output = BytesMut::new();
    assert!(client.request(TransferSyntax::Ndr, 0, LE, &[1; 9000], &mut output));
    let frames = std::iter::from_fn(|| next_frame(&mut output, 4280).unwrap());
    assert_eq!(frames.map(|frame| frame.body.len() - 8).sum::<usize>(), 9000);
}
