// What the tests use of the library kotlin.test, for a compiler that has no build tool to fetch it.
// Checked against https://kotlinlang.org/api/core/kotlin-test/kotlin.test/. Android Studio takes the library itself.
package kotlin.test

import java.lang.reflect.InvocationTargetException
import kotlin.system.exitProcess

@Target(AnnotationTarget.FUNCTION)
annotation class Test

fun <T> assertEquals(expected: T, actual: T, message: String? = null) {
    if (expected != actual) throw AssertionError("${message?.plus(". ") ?: ""}Expected <$expected>, actual <$actual>.")
}

fun assertTrue(actual: Boolean, message: String? = null) = assertEquals(true, actual, message)

fun assertNull(actual: Any?, message: String? = null) = assertEquals(null, actual, message)

fun assertContains(charSequence: CharSequence, other: CharSequence) =
    assertTrue(other in charSequence, "Expected '$charSequence' to contain '$other'")

inline fun <reified T : Throwable> assertFailsWith(block: () -> Unit): T {
    try {
        block()
    } catch (error: Throwable) {
        if (error is T) return error
        throw AssertionError("Expected ${T::class.java}, was $error", error)
    }
    throw AssertionError("Expected ${T::class.java}, but nothing was thrown")
}

/** Run the test classes of the given names. */
fun main(classes: Array<String>) {
    var passed = 0
    var failed = 0
    for (type in classes.map { Class.forName(it) }) {
        for (method in type.declaredMethods.filter { it.isAnnotationPresent(Test::class.java) }) {
            try {
                method.invoke(type.getDeclaredConstructor().newInstance())
                passed++
            } catch (error: InvocationTargetException) {
                failed++
                println("FAILED ${type.simpleName}.${method.name}: ${error.targetException}")
            }
        }
    }
    println("$passed tests passed, $failed failed")
    if (failed > 0 || passed == 0) exitProcess(1)
}
