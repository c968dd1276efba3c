"""The pool in a DynamoDB table."""
