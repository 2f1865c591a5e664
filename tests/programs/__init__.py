"""Small Pulumi programs that use the components as another program would; run by the tests."""
