//! A card in front of the token, as a PIV card is one: it has a PIN of its own and counts its tries, and
//! somebody else may have changed it.
//!
//! The file that `P11MOCK_CARD` names has these words (no file: there is no card):
//!
//! | word | meaning |
//! | --- | --- |
//! | 1 | the PIN that is right |
//! | 2 | tries that are left |
//! | 3 | tries after a PIN that was right |
//! | 4 | the PIN of the token behind |
//! | 5 | what a person types at its own keypad (`cancel`), with commas one after the other; else it has none |
//!
//! A PIN of less than four characters is refused with `CKR_PIN_LEN_RANGE`, and costs a try as well.

use cryptoki_sys::{
    CK_FLAGS, CK_RV, CK_USER_TYPE, CKF_PROTECTED_AUTHENTICATION_PATH, CKF_USER_PIN_COUNT_LOW,
    CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED, CKR_ARGUMENTS_BAD, CKR_FUNCTION_CANCELED,
    CKR_PIN_INCORRECT, CKR_PIN_LEN_RANGE, CKR_PIN_LOCKED, CKU_SO,
};
use parking_lot::Mutex;

/// Held while the file is read and written.
static CARD: Mutex<()> = Mutex::new(());

struct Card {
    pin: String,
    left: u32,
    most: u32,
    behind: String,
    typed: Option<String>,
}

impl Card {
    fn read() -> Option<Self> {
        let text = std::fs::read_to_string(std::env::var_os("P11MOCK_CARD")?).ok()?;
        let mut words = text.split_whitespace().map(str::to_owned);
        Some(Self {
            pin: words.next()?,
            left: words.next()?.parse().ok()?,
            most: words.next()?.parse().ok()?,
            behind: words.next()?,
            typed: words.next(),
        })
    }

    fn write(&self) {
        let Self { pin, left, most, behind, typed } = self;
        let text = format!("{pin} {left} {most} {behind} {}\n", typed.as_deref().unwrap_or(""));
        let path = std::env::var_os("P11MOCK_CARD").unwrap_or_default();
        if let Err(error) = std::fs::write(path, text) {
            eprintln!("p11mock: P11MOCK_CARD: {error}");
        }
    }
}

/// What `C_GetTokenInfo` says of the card.
pub(crate) fn flags(real: CK_FLAGS) -> CK_FLAGS {
    let _card = CARD.lock();
    let Some(card) = Card::read() else { return real };
    let ours = CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_LOCKED;
    let tries = match card.left {
        0 => CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_LOCKED,
        left if left == card.most => 0,
        1 => CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY,
        _ => CKF_USER_PIN_COUNT_LOW,
    };
    let keypad = if card.typed.is_some() { CKF_PROTECTED_AUTHENTICATION_PATH } else { 0 };
    (real & !ours) | tries | keypad
}

/// What becomes of a login: `Ok(None)` if it is passed on as it is, `Ok(Some)` with this PIN, `Err` if the
/// card refuses it.
pub(crate) fn login(user: CK_USER_TYPE, pin: Option<&[u8]>) -> Result<Option<String>, CK_RV> {
    let _card = CARD.lock();
    let Some(mut card) = Card::read().filter(|_| user != CKU_SO) else { return Ok(None) };
    if card.left == 0 {
        return Err(CKR_PIN_LOCKED);
    }
    let typed = card.typed.clone();
    let now = typed.as_deref().map(|typed| typed.split_once(',').unwrap_or((typed, typed)));
    card.typed = now.map(|(_, later)| later.to_owned());
    let Some(pin) = pin.or(now.map(|(now, _)| now.as_bytes())) else {
        return Err(CKR_ARGUMENTS_BAD);
    };
    if pin == b"cancel" {
        return Err(CKR_FUNCTION_CANCELED);
    }
    let right = pin == card.pin.as_bytes();
    let refusal = if pin.len() < 4 { CKR_PIN_LEN_RANGE } else { CKR_PIN_INCORRECT };
    card.left = if right { card.most } else { card.left - 1 };
    card.write();
    if right { Ok(Some(card.behind)) } else { Err(refusal) }
}
