//! A message of ZeroMQ, which is frames, as a message of ours and back. Frames come back as they were.
//!
//! | ZeroMQ | message |
//! |---|---|
//! | the last frame | body |
//! | the first of several, if it is a text | keys |
//! | those between, and a first one that is no text | property `zeromq.frames`: a JSON list of their bytes in base64 |
//! | endpoint of the socket | `zeromq.origin` |
//!
//! There are no headers: other properties, tag, unique id and times stay behind.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::message::{Mapped, plain};

/// Property: the endpoint that a message came by.
pub const ORIGIN: &str = "zeromq.origin";
/// Property: frames that have no other place.
pub const FRAMES: &str = "zeromq.frames";

/// What frames become, and the body.
pub fn to_message(endpoint: &str, mut frames: Vec<Vec<u8>>) -> (Mapped<'static>, Vec<u8>) {
    let mut mapped = Mapped::default();
    let body = frames.pop().unwrap_or_default();
    let mut rest = frames.as_slice();
    if let Some((first, behind)) = frames.split_first()
        && let Some(text) = plain(first)
    {
        mapped.keys = Some(text.to_owned().into());
        rest = behind;
    }
    if !rest.is_empty() {
        let list: Vec<String> = rest.iter().map(|frame| STANDARD.encode(frame)).collect();
        mapped.set(FRAMES, serde_json::Value::from(list).to_string());
    }
    mapped.set(ORIGIN, endpoint.to_owned());
    (mapped, body)
}

/// The frames that stand before the body, or why there can be none. `route` is the first frame where a step says one.
pub fn to_frames<'a>(
    route: Option<&str>,
    keys: Option<&str>,
    own: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<Vec<u8>>, String> {
    let mut frames: Vec<Vec<u8>> =
        route.or(keys).map(|first| first.as_bytes().to_vec()).into_iter().collect();
    for (_, list) in own.filter(|(name, _)| *name == FRAMES) {
        let told = || format!("property `{FRAMES}` holds no list of frames in base64");
        let list: Vec<String> = serde_json::from_str(list).map_err(|_| told())?;
        for frame in list {
            frames.push(STANDARD.decode(frame).map_err(|_| told())?);
        }
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof!["[a-zä.]{0,5}".prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..5)]
    }

    proptest! {
        #[test]
        fn frames_come_back_as_they_were(frames in prop::collection::vec(frames(), 1..5)) {
            let (mapped, body) = to_message("tcp://h:1", frames.clone());
            let own = mapped.own();
            let mut back = to_frames(None, mapped.keys.as_deref(), own).unwrap();
            back.push(body);
            prop_assert_eq!(back, frames);
            for (name, value) in &mapped.properties {
                let mut encoded = Vec::new();
                prop_assert!(sluice_protocol::message::push_property(&mut encoded, name, value).is_ok());
            }
        }
    }

    #[test]
    fn a_step_may_say_the_first_frame_and_what_is_no_list_is_told() {
        let own = [("other", "x")];
        assert_eq!(to_frames(Some("r"), Some("k"), own.into_iter()), Ok(vec![b"r".to_vec()]));
        for list in ["1", "[1]", r#"["?"]"#] {
            assert!(
                to_frames(None, None, [(FRAMES, list)].into_iter())
                    .unwrap_err()
                    .contains("no list of frames")
            );
        }
    }
}
