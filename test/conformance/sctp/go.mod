module github.com/ishidawataru/sctp

go 1.26.0

require github.com/pion/sctp v1.8.41
