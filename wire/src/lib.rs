//! What REST clients and nodes say to each other: types, error envelope, HTTP client.
