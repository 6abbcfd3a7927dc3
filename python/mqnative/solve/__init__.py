"""Which type every tensor gets, given what each choice costs in bytes and in damage."""
