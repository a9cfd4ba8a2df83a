"""How weights may be stored: precision profiles, which a study chooses from."""
