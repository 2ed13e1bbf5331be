<?php
// PHP and curl, by hand. PHP begins each request without variables, so nothing has to be kept.
//
//     NEXT=http://backend.service/ php -S 127.0.0.1:8001 by_hand.php

/** Calls a service of your own, in the environment of the request. */
function call(string $url): string
{
    $headers = [];
    if (isset($_SERVER['HTTP_X_MAYFLY'])) {
        $headers[] = 'x-mayfly: ' . $_SERVER['HTTP_X_MAYFLY'];
    }
    $curl = curl_init($url);
    curl_setopt_array($curl, [CURLOPT_HTTPHEADER => $headers, CURLOPT_RETURNTRANSFER => true]);
    $body = curl_exec($curl);
    if ($body === false) {
        http_response_code(502);
        return curl_error($curl);
    }
    return $body;
}

echo call(getenv('NEXT'));
