//! Mutations of JSON that leave it JSON.

use serde_json::{Value, json};

use crate::chance::Chance;

/// Changes one place of a value.
pub fn change(value: &mut Value, chance: &mut Chance) {
    let count = count(value);
    let mut donor = chance.below(count);
    let donor = nth(value, &mut donor).cloned().unwrap_or_default();
    let mut place = chance.below(count);
    let Some(node) = nth_mut(value, &mut place) else {
        return;
    };
    match (chance.below(4), &mut *node) {
        (0, _) => *node = donor,
        (1, Value::Array(all)) if !all.is_empty() => {
            all.remove(chance.below(all.len()));
        }
        (2, Value::Array(all)) => all.push(all.last().cloned().unwrap_or(donor)),
        (1, Value::Object(all)) if !all.is_empty() => {
            let key = all.keys().nth(chance.below(all.len())).cloned();
            key.and_then(|key| all.remove(&key));
        }
        (1 | 2, Value::Number(number)) => {
            *node = match number.as_u64() {
                Some(n) => json!(n.wrapping_add(chance.of(&[1, u64::MAX, n]))),
                None => json!(number.as_f64().unwrap_or(0.0) * chance.of(&[-1.0, 0.5, 1e30])),
            }
        }
        _ => {
            *node = match chance.below(7) {
                0 => Value::Null,
                1 => json!(0),
                2 => json!(chance.of(&[1, 2, 3, 7, 1 << 20, 1 << 32, 1 << 53, u64::MAX])),
                3 => json!(chance.of(&[-1.0, 0.5, 1e-320, 1e38, 1e39, f64::MAX, -0.0])),
                4 => json!([]),
                5 => json!(""),
                _ => json!([donor]),
            }
        }
    }
}

/// Values in a value, and itself.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(all) => all.iter().map(count).sum::<usize>(),
        Value::Object(all) => all.values().map(count).sum(),
        _ => 0,
    }
}

fn nth<'a>(value: &'a Value, left: &mut usize) -> Option<&'a Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(all) => all.iter().find_map(|own| nth(own, left)),
        Value::Object(all) => all.values().find_map(|own| nth(own, left)),
        _ => None,
    }
}

fn nth_mut<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(all) => all.iter_mut().find_map(|own| nth_mut(own, left)),
        Value::Object(all) => all.values_mut().find_map(|own| nth_mut(own, left)),
        _ => None,
    }
}

/// A mutator of inputs that are one byte, which chooses, and JSON.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut chance = Chance::new(seed);
    let text = data.get(1..size).unwrap_or_default();
    let parsed = serde_json::from_slice::<Value>(text);
    if let (Ok(mut value), true) = (parsed, chance.below(4) > 0) {
        for _ in 0..=chance.below(3) {
            change(&mut value, &mut chance);
        }
        let text = value.to_string();
        if text.len() < max_size {
            data[1..=text.len()].copy_from_slice(text.as_bytes());
            return text.len() + 1;
        }
    }
    libfuzzer_sys::fuzzer_mutate(data, size, max_size)
}
