"""What several test files share: models, data, oracles, and the programs that run as processes of their own."""
