"""Rules and scores of texts, language, personal data (`text_rules.filter_text` is the way in)."""
