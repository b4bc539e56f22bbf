// A small EST server to measure against: mutual TLS, HTTP, simpleenroll, one synced line per certificate. No policy.
//
// goca DIRECTORY: writes root.pem and client.pem (key and certificate) there, prints its port, serves until it is killed.
package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

type signedData struct {
	Version    int
	Digests    asn1.RawValue
	Content    struct{ Type asn1.ObjectIdentifier }
	Certs      asn1.RawValue
	SignerInfo asn1.RawValue
}

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content signedData `asn1:"explicit,tag:0"`
}

var emptySet = asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSet, IsCompound: true}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func certsOnly(der []byte) ([]byte, error) {
	signed := signedData{Version: 1, Digests: emptySet, SignerInfo: emptySet}
	signed.Content.Type = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	signed.Certs = asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: der}
	return asn1.Marshal(contentInfo{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}, signed})
}

func template(name string, usage x509.KeyUsage, extended ...x509.ExtKeyUsage) *x509.Certificate {
	limit := new(big.Int).Lsh(big.NewInt(1), 159)
	return &x509.Certificate{
		SerialNumber:          must(rand.Int(rand.Reader, limit)),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-5 * time.Minute),
		NotAfter:              time.Now().Add(90 * 24 * time.Hour),
		KeyUsage:              usage,
		ExtKeyUsage:           extended,
		BasicConstraintsValid: true,
	}
}

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	ledger      *os.File
	turn        sync.Mutex
}

func (a *authority) sign(leaf *x509.Certificate, public any) ([]byte, error) {
	encoded, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	digest := sha1.Sum(encoded)
	leaf.SubjectKeyId = digest[:]
	return x509.CreateCertificate(rand.Reader, leaf, a.certificate, public, a.key)
}

func (a *authority) enroll(answer http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(io.LimitReader(request.Body, 65536))
	if err != nil || request.Method != "POST" || !strings.HasPrefix(request.Header.Get("Content-Type"), "application/pkcs10") {
		http.Error(answer, "not a request", 400)
		return
	}
	der, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(body)))
	if err != nil {
		http.Error(answer, "not base64", 400)
		return
	}
	asked, err := x509.ParseCertificateRequest(der)
	if err != nil || asked.CheckSignature() != nil {
		http.Error(answer, "not a request", 400)
		return
	}
	leaf := template(asked.Subject.CommonName, x509.KeyUsageDigitalSignature, x509.ExtKeyUsageClientAuth)
	made, err := a.sign(leaf, asked.PublicKey)
	if err != nil {
		http.Error(answer, "cannot sign", 500)
		return
	}
	a.turn.Lock()
	_, err = fmt.Fprintf(a.ledger, "%x %s %s\n", leaf.SerialNumber, leaf.Subject.CommonName, base64.StdEncoding.EncodeToString(made))
	if err == nil {
		err = a.ledger.Sync()
	}
	a.turn.Unlock()
	message, problem := certsOnly(made)
	if err != nil || problem != nil {
		http.Error(answer, "cannot store", 500)
		return
	}
	answer.Header().Set("Content-Type", "application/pkcs7-mime; smime-type=certs-only")
	answer.Write([]byte(base64.StdEncoding.EncodeToString(message) + "\n"))
}

func main() {
	directory := os.Args[1]
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	root := template("issuer", x509.KeyUsageCertSign|x509.KeyUsageCRLSign)
	root.IsCA = true
	encoded := must(x509.CreateCertificate(rand.Reader, root, root, &key.PublicKey, key))
	ledger := must(os.OpenFile(filepath.Join(directory, "ledger"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600))
	ca := &authority{certificate: must(x509.ParseCertificate(encoded)), key: key, ledger: ledger}
	rootPem := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: encoded})
	must(0, os.WriteFile(filepath.Join(directory, "root.pem"), rootPem, 0o644))

	clientKey := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	client := template("batch", x509.KeyUsageDigitalSignature, x509.ExtKeyUsageClientAuth)
	clientDer := must(ca.sign(client, &clientKey.PublicKey))
	clientPem := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(clientKey))})
	clientPem = append(clientPem, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: clientDer})...)
	must(0, os.WriteFile(filepath.Join(directory, "client.pem"), clientPem, 0o600))

	serverKey := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	server := template("localhost", x509.KeyUsageDigitalSignature, x509.ExtKeyUsageServerAuth)
	server.DNSNames = []string{"localhost"}
	serverDer := must(ca.sign(server, &serverKey.PublicKey))
	anchors := x509.NewCertPool()
	anchors.AddCert(ca.certificate)
	config := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{serverDer}, PrivateKey: serverKey}},
		ClientCAs:    anchors,
		ClientAuth:   tls.RequireAndVerifyClientCert,
	}
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	http.HandleFunc("/.well-known/est/simpleenroll", ca.enroll)
	log.Fatal(http.Serve(tls.NewListener(listener, config), nil))
}
