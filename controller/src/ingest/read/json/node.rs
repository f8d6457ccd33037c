//! JSON as it is walked: serde_json's own value, or one whose texts are those of the line, which takes a third of the time to make.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Number, Value};

/// What paths lead through.
pub(in crate::ingest::read) trait Node: Sized {
    /// What an object has under a key.
    fn get(&self, key: &str) -> Option<&Self>;
    /// The elements of a list.
    fn items(&self) -> Option<&[Self]>;
    /// The text of a string, number or truth value.
    fn scalar(&self) -> Option<Cow<'_, str>>;
    /// Whether it is nothing.
    fn is_null(&self) -> bool;
    /// Whether it has keys.
    fn is_object(&self) -> bool;
    /// The text of a string.
    fn as_str(&self) -> Option<&str>;
    /// A number that is whole and not below zero.
    fn as_u64(&self) -> Option<u64>;
    /// As serde_json has it.
    fn as_value(&self) -> Cow<'_, Value>;
}

impl Node for Value {
    fn get(&self, key: &str) -> Option<&Self> {
        self.as_object()?.get(key)
    }

    fn items(&self) -> Option<&[Self]> {
        self.as_array().map(Vec::as_slice)
    }

    fn scalar(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::String(text) => Some(text.as_str().into()),
            Self::Number(number) => Some(number.to_string().into()),
            Self::Bool(truth) => Some(truth.to_string().into()),
            Self::Null | Self::Array(_) | Self::Object(_) => None,
        }
    }

    fn is_null(&self) -> bool {
        self.is_null()
    }

    fn is_object(&self) -> bool {
        self.is_object()
    }

    fn as_str(&self) -> Option<&str> {
        self.as_str()
    }

    fn as_u64(&self) -> Option<u64> {
        self.as_u64()
    }

    fn as_value(&self) -> Cow<'_, Value> {
        Cow::Borrowed(self)
    }
}

/// A value in a line that is still there.
#[derive(Debug)]
pub(in crate::ingest::read) enum Json<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    /// As written: of a key that comes twice the last counts.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

impl Node for Json<'_> {
    fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(entries) = self else { return None };
        entries.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    fn items(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    fn scalar(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(text.as_ref().into()),
            Self::Number(number) => Some(number.to_string().into()),
            Self::Bool(truth) => Some(truth.to_string().into()),
            Self::Null | Self::List(_) | Self::Object(_) => None,
        }
    }

    fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Number(number) => number.as_u64(),
            _ => None,
        }
    }

    fn as_value(&self) -> Cow<'_, Value> {
        Cow::Owned(self.copied())
    }
}

impl Json<'_> {
    fn copied(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(truth) => Value::Bool(*truth),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Text(text) => Value::String(text.as_ref().to_owned()),
            Self::List(items) => Value::Array(items.iter().map(Self::copied).collect()),
            Self::Object(entries) => Value::Object(
                entries.iter().map(|(key, value)| (key.as_ref().to_owned(), value.copied())).collect(),
            ),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Whatever)
    }
}

struct Whatever;

impl<'de> Visitor<'de> for Whatever {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json<'de>, E> {
        Ok(Number::from_f64(number).map_or(Json::Null, Json::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(text.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(text.to_owned().into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json<'de>, A::Error> {
        let mut object = Vec::with_capacity(8);
        while let Some((Key(key), value)) = entries.next_entry()? {
            object.push((key, value));
        }
        Ok(Json::Object(object))
    }
}

/// A key, which serde would copy.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Name)
    }
}

struct Name;

impl<'de> Visitor<'de> for Name {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
        Ok(Key(text.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
        Ok(Key(text.to_owned().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::at, *};

    fn texts<T: Node>(value: &T, path: &str) -> Vec<String> {
        at(value, path).into_iter().filter_map(Node::scalar).map(Cow::into_owned).collect()
    }

    #[test]
    fn a_line_says_the_same_whether_its_texts_are_copied_or_not() {
        let lines = [
            r#"{"a":{"b":"x"},"n":-1,"u":18446744073709551615,"f":1.5e3,"t":true,"z":null}"#,
            r#"{"a":{"b":"first"},"a":{"b":"last","b":"the very last"}}"#,
            r#"{"a":[{"b":["x",null,["y"]]},{"b":1},7],"e":[],"o":{}}"#,
            r#"{"\u0061":{"b":"an \"escaped\" \u00fc\ud83e\udd80\n"}}"#,
            r#"[{"a":"x"},{"a":"y"}]"#,
            r#""only a text""#,
            r#"{"a":1e999}"#,
            r#"{"a":1"#,
            "",
            "\"\u{1}\"",
        ];
        let paths = ["a", "a.b", "a.b.c", "n", "u", "f", "t", "z", "e", "o", "", "missing.too"];
        let mut read = 0;
        for line in lines {
            let copied = serde_json::from_str::<Value>(line);
            let borrowed = serde_json::from_str::<Json<'_>>(line);
            assert_eq!(copied.is_ok(), borrowed.is_ok(), "{line}");
            let (Ok(copied), Ok(borrowed)) = (copied, borrowed) else { continue };
            for path in paths {
                assert_eq!(texts(&borrowed, path), texts(&copied, path), "{path} of {line}");
                read += texts(&copied, path).len();
            }
            assert_eq!(borrowed.items().map(<[_]>::len), copied.items().map(<[_]>::len));
            assert_eq!(*borrowed.as_value(), copied, "{line}");
            for key in ["a", "n", "u", "f", "t", "z", "e", "o", "missing"] {
                let says =
                    |(text, number, object): (Option<&str>, _, _)| (text.map(str::to_owned), number, object);
                let of_one =
                    Node::get(&copied, key).map(|it| says((it.as_str(), it.as_u64(), it.is_object())));
                let of_other = borrowed.get(key).map(|it| says((it.as_str(), it.as_u64(), it.is_object())));
                assert_eq!(of_other, of_one, "{key} of {line}");
            }
        }
        assert!(read > 12, "{read}");
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert!(serde_json::from_str::<Json<'_>>(&deep).is_err(), "as deep as serde_json lets a value be");
    }
}
