//! JSON as CEL values: whole numbers are `int`, lists are bounded.

use std::{collections::HashMap, sync::Arc};

use cel::objects::{Key, Map, Value};
use serde_json::Value as Json;

use super::MAX_LIST;

pub(super) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::Int(value),
            (None, Some(value)) => Value::UInt(value),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(value) => Value::String(Arc::new(value.clone())),
        Json::Array(items) => Value::List(Arc::new(items.iter().take(MAX_LIST).map(from_json).collect())),
        Json::Object(entries) => {
            let map: HashMap<Key, Value> = entries
                .iter()
                .take(MAX_LIST)
                .map(|(key, value)| (Key::from(key.as_str()), from_json(value)))
                .collect();
            Value::Map(Map { map: Arc::new(map) })
        }
    }
}
