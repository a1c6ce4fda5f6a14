-- Where the key is that certifies an OpenPGP certificate, if it is not the key of TLS itself: it signs
-- renewals and revocations. `certificate` of such a row is the transferable public key in binary.
ALTER TABLE local_identity ADD COLUMN certify_uri TEXT;
