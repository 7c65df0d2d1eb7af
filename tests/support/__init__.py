"""What tests share: servers, databases, operators, builders."""
