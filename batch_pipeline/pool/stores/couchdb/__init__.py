"""The pool in a CouchDB database."""
