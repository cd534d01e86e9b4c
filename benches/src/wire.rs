//! AMQP 0-9-1 frames by hand: as much as the sink and the raw client need, and independent of
//! the crate that is measured.

/// What is wrong with the bytes: static words, so that a result is cheap to hand up.
pub(crate) type Read<T> = Result<T, &'static str>;

pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;
pub(crate) const BODY: u8 = 3;
pub(crate) const HEARTBEAT: u8 = 8;
pub(crate) const FRAME_END: u8 = 0xCE;

/// The largest frame that the sink offers and the raw client asks for, in bytes.
pub(crate) const FRAME_MAX: u32 = 131_072;

/// Type, channel, size, and the end octet.
pub(crate) const OVERHEAD: usize = 8;

/// A method's class and number, as one value to match on.
pub(crate) type Method = (u16, u16);

pub(crate) mod id {
    //! The methods that occur here.
    use super::Method;

    pub(crate) const CONNECTION_START: Method = (10, 10);
    pub(crate) const CONNECTION_START_OK: Method = (10, 11);
    pub(crate) const CONNECTION_TUNE: Method = (10, 30);
    pub(crate) const CONNECTION_TUNE_OK: Method = (10, 31);
    pub(crate) const CONNECTION_OPEN: Method = (10, 40);
    pub(crate) const CONNECTION_OPEN_OK: Method = (10, 41);
    pub(crate) const CONNECTION_CLOSE: Method = (10, 50);
    pub(crate) const CONNECTION_CLOSE_OK: Method = (10, 51);
    pub(crate) const CHANNEL_OPEN: Method = (20, 10);
    pub(crate) const CHANNEL_OPEN_OK: Method = (20, 11);
    pub(crate) const CHANNEL_FLOW: Method = (20, 20);
    pub(crate) const CHANNEL_FLOW_OK: Method = (20, 21);
    pub(crate) const CHANNEL_CLOSE: Method = (20, 40);
    pub(crate) const CHANNEL_CLOSE_OK: Method = (20, 41);
    pub(crate) const EXCHANGE_DECLARE: Method = (40, 10);
    pub(crate) const EXCHANGE_DECLARE_OK: Method = (40, 11);
    pub(crate) const EXCHANGE_DELETE: Method = (40, 20);
    pub(crate) const EXCHANGE_DELETE_OK: Method = (40, 21);
    pub(crate) const QUEUE_DECLARE: Method = (50, 10);
    pub(crate) const QUEUE_DECLARE_OK: Method = (50, 11);
    pub(crate) const QUEUE_BIND: Method = (50, 20);
    pub(crate) const QUEUE_BIND_OK: Method = (50, 21);
    pub(crate) const QUEUE_PURGE: Method = (50, 30);
    pub(crate) const QUEUE_PURGE_OK: Method = (50, 31);
    pub(crate) const QUEUE_DELETE: Method = (50, 40);
    pub(crate) const QUEUE_DELETE_OK: Method = (50, 41);
    pub(crate) const QUEUE_UNBIND: Method = (50, 50);
    pub(crate) const QUEUE_UNBIND_OK: Method = (50, 51);
    pub(crate) const BASIC_QOS: Method = (60, 10);
    pub(crate) const BASIC_QOS_OK: Method = (60, 11);
    pub(crate) const BASIC_CONSUME: Method = (60, 20);
    pub(crate) const BASIC_CONSUME_OK: Method = (60, 21);
    pub(crate) const BASIC_CANCEL: Method = (60, 30);
    pub(crate) const BASIC_CANCEL_OK: Method = (60, 31);
    pub(crate) const BASIC_PUBLISH: Method = (60, 40);
    pub(crate) const BASIC_DELIVER: Method = (60, 60);
    pub(crate) const BASIC_ACK: Method = (60, 80);
    pub(crate) const BASIC_REJECT: Method = (60, 90);
    pub(crate) const BASIC_NACK: Method = (60, 120);
    pub(crate) const CONFIRM_SELECT: Method = (85, 10);
    pub(crate) const CONFIRM_SELECT_OK: Method = (85, 11);
}

/// One frame, its payload still in the read buffer.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) channel: u16,
    pub(crate) payload: &'a [u8],
}

/// The first frame of `bytes` and its whole length; `None` while it is incomplete.
///
/// # Errors
///
/// A frame over [`FRAME_MAX`], or one without its end octet.
#[inline(always)]
pub(crate) fn first_frame(bytes: &[u8]) -> Read<Option<(Frame<'_>, usize)>> {
    let Some((head, rest)) = bytes.split_first_chunk::<7>() else {
        return Ok(None);
    };
    let [kind, c1, c0, s3, s2, s1, s0] = *head;
    let size = u32::from_be_bytes([s3, s2, s1, s0]) as usize;
    let Some(&end) = rest.get(size) else {
        let too_large = size + OVERHEAD > FRAME_MAX as usize;
        return if too_large { Err("a frame over the limit") } else { Ok(None) };
    };
    if end != FRAME_END {
        return Err("a frame without its end octet");
    }
    let channel = u16::from_be_bytes([c1, c0]);
    let payload = &rest[..size];
    Ok(Some((Frame { kind, channel, payload }, size + OVERHEAD)))
}

/// Reads the fields of a method or header in order.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Self {
        Self(payload)
    }

    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk().ok_or("a field past the end of its frame")?;
        self.0 = rest;
        Ok(*head)
    }

    #[inline(always)]
    fn bytes(&mut self, n: usize) -> Read<&'a [u8]> {
        let (head, rest) =
            self.0.split_at_checked(n).ok_or("a string past the end of its frame")?;
        self.0 = rest;
        Ok(head)
    }

    #[inline(always)]
    pub(crate) fn octet(&mut self) -> Read<u8> {
        self.take::<1>().map(|[b]| b)
    }

    #[inline(always)]
    pub(crate) fn short(&mut self) -> Read<u16> {
        self.take().map(u16::from_be_bytes)
    }

    #[inline(always)]
    pub(crate) fn long(&mut self) -> Read<u32> {
        self.take().map(u32::from_be_bytes)
    }

    #[inline(always)]
    pub(crate) fn longlong(&mut self) -> Read<u64> {
        self.take().map(u64::from_be_bytes)
    }

    /// The two numbers that a method begins with.
    #[inline(always)]
    pub(crate) fn method(&mut self) -> Read<Method> {
        Ok((self.short()?, self.short()?))
    }

    /// What is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn short_string(&mut self) -> Read<&'a str> {
        let n = self.octet()?;
        std::str::from_utf8(self.bytes(n.into())?).map_err(|_| "a name that is not UTF-8")
    }

    /// Over a short string that nobody reads.
    #[inline(always)]
    pub(crate) fn skip_short_string(&mut self) -> Read<()> {
        let n = self.octet()?;
        self.bytes(n.into()).map(|_| ())
    }
}

/// Appends the fields of a method.
pub(crate) struct Writer<'a>(pub(crate) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(crate) fn octet(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn short(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn long(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn longlong(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// The names used here are all short: a longer one is cut at 255 bytes.
    pub(crate) fn short_string(&mut self, value: &str) -> &mut Self {
        let bytes = &value.as_bytes()[..value.len().min(255)];
        self.octet(bytes.len() as u8);
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn long_string(&mut self, value: &[u8]) -> &mut Self {
        self.long(value.len() as u32);
        self.0.extend_from_slice(value);
        self
    }
}

/// Appends a frame around what `fill` writes.
fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, fill: impl FnOnce(&mut Writer<'_>)) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    let size_at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(&mut Writer(out));
    let size = (out.len() - size_at - 4) as u32;
    out[size_at..size_at + 4].copy_from_slice(&size.to_be_bytes());
    out.push(FRAME_END);
}

/// Appends a method frame.
pub(crate) fn method(
    out: &mut Vec<u8>,
    channel: u16,
    (class, method): Method,
    arguments: impl FnOnce(&mut Writer<'_>),
) {
    frame(out, METHOD, channel, |w| {
        w.short(class).short(method);
        arguments(w);
    });
}

/// Appends a content header without properties, or with the one that says "persistent".
pub(crate) fn header(out: &mut Vec<u8>, channel: u16, size: usize, persistent: bool) {
    frame(out, HEADER, channel, |w| {
        w.short(60).short(0).longlong(size as u64);
        match persistent {
            true => w.short(1 << 12).octet(2),
            false => w.short(0),
        };
    });
}

/// Appends a body in as many frames as it takes.
pub(crate) fn body(out: &mut Vec<u8>, channel: u16, body: &[u8], frame_max: u32) {
    for chunk in body.chunks(frame_max as usize - OVERHEAD) {
        frame(out, BODY, channel, |w| w.0.extend_from_slice(chunk));
    }
}

/// Appends what comes before a chunk of a body; after it comes [`FRAME_END`].
pub(crate) fn body_start(out: &mut Vec<u8>, channel: u16, length: usize) {
    out.push(BODY);
    Writer(out).short(channel).long(length as u32);
}

/// Appends a heartbeat.
pub(crate) fn heartbeat(out: &mut Vec<u8>) {
    frame(out, HEARTBEAT, 0, |_| {});
}

/// Appends `basic.ack`.
pub(crate) fn ack(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool) {
    method(out, channel, id::BASIC_ACK, |w| {
        w.longlong(tag).octet(multiple.into());
    });
}
