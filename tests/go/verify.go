// Verifies a chain and its CRLs with Go's crypto/x509, for tests.
//
//	verify ROOTS CHAIN HOST CRL...
//
// CHAIN is PEM, the leaf first. Prints "valid", "revoked", or why neither.
package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
)

func fail(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func read(path string) (found []*x509.Certificate) {
	data, err := os.ReadFile(path)
	fail(err)
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		fail(err)
		found = append(found, certificate)
	}
	return
}

func main() {
	roots, above := x509.NewCertPool(), x509.NewCertPool()
	for _, root := range read(os.Args[1]) {
		roots.AddCert(root)
	}
	chain := read(os.Args[2])
	for _, issuer := range chain[1:] {
		above.AddCert(issuer)
	}
	chains, err := chain[0].Verify(x509.VerifyOptions{DNSName: os.Args[3], Roots: roots, Intermediates: above})
	fail(err)
	checked := 0
	for _, path := range os.Args[4:] {
		data, err := os.ReadFile(path)
		fail(err)
		block, _ := pem.Decode(data)
		list, err := x509.ParseRevocationList(block.Bytes)
		fail(err)
		for i, certificate := range chains[0][:len(chains[0])-1] {
			if !bytes.Equal(list.RawIssuer, certificate.RawIssuer) {
				continue
			}
			fail(list.CheckSignatureFrom(chains[0][i+1]))
			checked++
			for _, entry := range list.RevokedCertificateEntries {
				if entry.SerialNumber.Cmp(certificate.SerialNumber) == 0 {
					fmt.Println("revoked")
					return
				}
			}
		}
	}
	if checked != len(os.Args)-4 {
		fmt.Println("a CRL is by nobody in the chain")
		os.Exit(1)
	}
	fmt.Println("valid")
}
