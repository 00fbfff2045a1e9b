//! Puts the fragments of one request together, up to a bound and strictly in order.

use bytes::{Bytes, BytesMut};

use crate::rpc::pdu::{Flags, Header, RequestHead};
use crate::rpc::violation::Violation;

/// A request of which some fragments are still to come.
#[derive(Debug)]
pub(super) enum Reassembly {
    /// Its stub is kept.
    Collecting {
        header: Header,
        head: RequestHead,
        stub: BytesMut,
    },
    /// It has been answered by a fault; the rest of it is dropped.
    Discarding { call_id: u32 },
}

/// A whole request.
#[derive(Debug)]
pub(super) struct Collected {
    pub(super) head: RequestHead,
    pub(super) stub: Bytes,
}

impl Reassembly {
    pub(super) fn call_id(&self) -> u32 {
        match self {
            Self::Collecting { header, .. } => header.call_id,
            Self::Discarding { call_id } => *call_id,
        }
    }
}

/// Takes one fragment of a request that will be served; returns the request when it is whole. A request of one fragment
/// is not copied.
pub(super) fn collect(
    incoming: &mut Option<Box<Reassembly>>,
    header: &Header,
    head: RequestHead,
    fragment: Bytes,
    limit: u32,
) -> Result<Option<Collected>, Violation> {
    let too_large = Violation::RequestTooLarge { limit };
    let out_of_order = Violation::Fragment(header.call_id);
    let fits = |length: usize| u32::try_from(length).is_ok_and(|length| length <= limit);
    let last = header.flags.has(Flags::LAST);

    if header.flags.has(Flags::FIRST) {
        if incoming.is_some() {
            return Err(out_of_order);
        }
        if !fits(fragment.len()) || (!last && head.alloc_hint > limit) {
            return Err(too_large);
        }
        if last {
            return Ok(Some(Collected { head, stub: fragment }));
        }
        let collecting = Reassembly::Collecting {
            header: *header,
            head,
            stub: BytesMut::from(fragment.as_ref()),
        };
        *incoming = Some(Box::new(collecting));
        return Ok(None);
    }

    let Some(mut reassembly) = incoming.take() else {
        return Err(out_of_order);
    };
    match &mut *reassembly {
        Reassembly::Discarding { call_id } if *call_id != header.call_id => {
            return Err(out_of_order);
        }
        Reassembly::Discarding { .. } => {}
        Reassembly::Collecting {
            header: first,
            head: begun,
            stub,
        } => {
            let continues = (first.call_id, first.drep, begun.context_id, begun.opnum)
                == (header.call_id, header.drep, head.context_id, head.opnum);
            if !continues {
                return Err(out_of_order);
            }
            if !fits(stub.len() + fragment.len()) {
                return Err(too_large);
            }
            stub.extend_from_slice(&fragment);
            if last {
                let stub = std::mem::take(stub).freeze();
                return Ok(Some(Collected { head: *begun, stub }));
            }
        }
    }
    if !last {
        *incoming = Some(reassembly);
    }
    Ok(None)
}

/// Takes one fragment of a request that will not be served; returns whether it is the one to answer with a fault.
pub(super) fn discard(incoming: &mut Option<Box<Reassembly>>, header: &Header) -> Result<bool, Violation> {
    let out_of_order = Violation::Fragment(header.call_id);
    let first = header.flags.has(Flags::FIRST);
    match incoming.take().as_deref() {
        None if first => {}
        Some(Reassembly::Discarding { call_id }) if !first && *call_id == header.call_id => {}
        _ => return Err(out_of_order),
    }
    if !header.flags.has(Flags::LAST) {
        *incoming = Some(Box::new(Reassembly::Discarding {
            call_id: header.call_id,
        }));
    }
    Ok(first)
}
